"""
The rollouts that a run has not trained on yet, saved with every checkpoint.

TRL generates rollouts for several steps at once and keeps them in memory, so a run that is resumed within such a block
would generate others and train on those. At the end of a block there is nothing to save.
"""

import logging
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .._folders import write_whole


logger = logging.getLogger(__name__)


def buffer_file(folder: str | Path, process_index: int) -> Path:
    return Path(folder) / f"rollouts_{process_index}.safetensors"


def save_buffer(trainer, trial=None) -> None:
    """Write this rank's remaining rollouts into the checkpoint of this step."""
    if trainer.args.save_only_model:
        return
    folder = Path(trainer._get_output_dir(trial=trial)) / f"{PREFIX_CHECKPOINT_DIR}-{trainer.state.global_step}"
    tensors, lists = {}, set()
    if trainer._step % (trainer.args.steps_per_generation * trainer.num_iterations):  # within a block
        for number, batch in enumerate(trainer._buffered_inputs):
            for name, value in batch.items():
                if isinstance(value, list):  # numbers of images
                    lists.add(name)
                    value = torch.tensor(value, dtype=torch.long)
                tensors[f"{number}.{name}"] = value.detach().cpu().contiguous().clone()
    metadata = {"step": str(trainer._step), "block": _block(trainer), "lists": " ".join(sorted(lists))}
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(buffer_file(folder, trainer.accelerator.process_index), save(tensors, metadata))


def load_buffer(trainer, folder: str | Path) -> None:
    """
    Restore this rank's rollouts from a checkpoint.

    Raises:
        ValueError: the file cannot be read, or belongs to other numbers of steps or ranks.
    """
    path = buffer_file(folder, trainer.accelerator.process_index)
    if not path.is_file():
        logger.warning("%s is missing, so the run continues with new rollouts: the resume is not exact.", path)
        return
    try:
        # Read on the CPU: with several CPU processes the device is "cpu:0", which safetensors does not know.
        with safe_open(path, framework="pt") as file:
            device = trainer.accelerator.device
            metadata, tensors = file.metadata(), {key: file.get_tensor(key).to(device) for key in file.keys()}
    except SafetensorError as error:
        raise ValueError(
            f"{path} cannot be read ({error}). Resume from an earlier checkpoint, or delete it for new rollouts."
        ) from error
    if metadata["block"] != _block(trainer):
        raise ValueError(
            f"The rollouts in {path} were made with {metadata['block']}, but this run has {_block(trainer)}. Resume "
            "with the same values, or delete the file to generate them again."
        )
    trainer._step = int(metadata["step"])
    if tensors:
        batches = [{} for _ in range(trainer.args.steps_per_generation)]
        for key, value in tensors.items():
            number, name = key.split(".", 1)
            batches[int(number)][name] = value.tolist() if name in metadata["lists"].split() else value
        trainer._buffered_inputs = batches


def _block(trainer) -> str:
    """What must be the same for rollouts to be usable."""
    names = ("per_device_train_batch_size", "steps_per_generation", "num_iterations", "num_generations")
    ranks = trainer.accelerator.num_processes
    return ", ".join(f"{name}={getattr(trainer.args, name)}" for name in names) + f" on {ranks} rank(s)"
