"""
The training stages of the miniature, as the demo, the tests and the examples run them.

All training goes through the real trainers and the real processor. A stage takes models and gives models; what it
trains on follows from a [`Preset`] and a seed.
"""

from pathlib import Path
from typing import Literal

from datasets import Dataset
from transformers import PrinterCallback
from trl import SFTConfig, SFTTrainer

from ..conversion import upcycle
from ..miniature.model import build_miniature
from ..miniature.tasks import make_dataset
from ..trainers import MetisHomeSFTConfig, MetisHomeSFTTrainer
from .presets import Preset


# Shares of the tasks in each stage's rows.
BASE_MIX = {
    "shapes": 26, "caption": 12, "corner": 8, "digits": 18, "words": 16, "chain": 6, "squares": 4,
    "located_easy": 6, "located_hard": 4,
}  # fmt: skip
DIRECT_MIX = {"shapes": 16, "corner": 5, "digits": 8, "words": 8, "located_easy": 13}
THINKING_MIX = {"chain": 24, "squares": 10, "located_hard": 16}

LEARNING_RATE = 1.5e-3


def stage_rows(
    mix: dict[str, int], count: int, split: Literal["train", "dev", "test"], seed: int, thinking: bool | None = None
) -> Dataset:
    """About `count` rows in the shares of a mix, at least one of each task."""
    total = sum(mix.values())
    return make_dataset({task: max(1, count * share // total) for task, share in mix.items()}, split, seed, thinking)


def train_base(preset: Preset, seed: int, output_dir: Path, callbacks=()):
    """
    The dense base, which plays Qwen2.5-VL: it answers every task at once, the hard ones about as well as one can
    without writing the steps down.

    Returns:
        The trained [`~transformers.Qwen2_5_VLForConditionalGeneration`] and its processor.
    """
    model, processor = build_miniature(seed)
    rows = stage_rows(BASE_MIX, preset.rows, "train", seed, thinking=False)
    return fit(model, processor, rows, preset, preset.base_steps, seed, output_dir, callbacks), processor


def train_reasoning_only(base, processor, preset: Preset, seed: int, output_dir: Path, callbacks=()):
    """Control: the dense base trained on written steps alone, as a reasoning model is."""
    rows = stage_rows(THINKING_MIX, preset.rows, "train", seed + 1)
    return fit(base, processor, rows, preset, preset.stage_steps, seed, output_dir, callbacks)


def train_dense_mixed(base, processor, preset: Preset, seed: int, output_dir: Path, callbacks=()):
    """Control: the dense base on the rows that the hybrid gets, without branches or router; it chooses its mode."""
    rows = stage_rows(THINKING_MIX | DIRECT_MIX, preset.rows, "train", seed + 1)
    return fit(base, processor, rows, preset, preset.stage_steps, seed, output_dir, callbacks)


def train_hybrid(base, processor, preset: Preset, seed: int, output_dir: Path, callbacks=(), **router_options):
    """
    Upcycle the base and train it on both modes (Stage-SFT): branches, shared parts and router together.

    `processor` learns `enable_thinking` in place.
    """
    model = upcycle(base, processor, seed=seed, **router_options)
    rows = stage_rows(THINKING_MIX | DIRECT_MIX, preset.rows, "train", seed + 1)
    return fit(model, processor, rows, preset, preset.stage_steps, seed, output_dir, callbacks)


def fit(model, processor, rows: Dataset, preset: Preset, steps: int, seed: int, output_dir: str | Path, callbacks=()):
    """Train a dense model with TRL's SFTTrainer, a two-branch one with ours; everything else is the same."""
    two_branch = model.config.model_type == "metis_home"
    trainer_class, config_class = (MetisHomeSFTTrainer, MetisHomeSFTConfig) if two_branch else (SFTTrainer, SFTConfig)
    trainer = trainer_class(
        model,
        args=config_class(
            max_length=None,
            per_device_train_batch_size=preset.batch_size,
            **training_arguments(steps, seed, output_dir),
        ),
        train_dataset=rows,
        processing_class=processor,
        callbacks=list(callbacks),
    )
    trainer.remove_callback(PrinterCallback)  # the demo has progress of its own
    trainer.train()
    return model.eval()


def training_arguments(steps: int, seed: int, output_dir: str | Path) -> dict:
    """What all trainers of the miniature share."""
    return {
        "output_dir": str(output_dir),
        "max_steps": steps,
        "learning_rate": LEARNING_RATE,
        "adam_beta2": 0.98,
        "warmup_steps": min(50, steps // 4),
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": 0.1},
        "seed": seed,
        "save_strategy": "no",
        "logging_steps": 20,
        "report_to": "none",
        "use_cpu": True,
        # Sensible on GPUs, slow here: a CPU without bf16 instructions emulates them.
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
    }
