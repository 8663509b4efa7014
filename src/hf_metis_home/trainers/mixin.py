"""What both trainers share: learning rates per group, the router's loss, complete checkpoints, model cards."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from datasets import IterableDataset
from peft import PeftModel
from torch.distributed.tensor import DTensor
from transformers import AutoConfig
from transformers.trainer import TRAINING_ARGS_NAME

from ..hub_templates.cards import hub_id
from ..hub_templates.model_card import config_facts, write_model_card
from ..hub_templates.training_history import Step, history_after
from ..modeling import MetisHomeConfig
from .fused_forward import add_router_loss
from .parameter_groups import count_trainable, describe_trainable, group_of, move_to_rate
from .run_record import run_of, write_run


if TYPE_CHECKING:
    from transformers import Trainer
else:  # at run time a TRL trainer comes after the mixin
    Trainer = object


# The `model_init_kwargs` that say where the model is.
WHERE = ("revision", "token", "subfolder", "cache_dir", "local_files_only")


class MetisHomeTrainerMixin(Trainer):
    """Comes before a TRL trainer. `args` is a [`~trainers.shared_config.RouterTrainingConfig`] too."""

    _stage: str  # for the model card
    _router_loss: Callable  # as `add_router_loss` takes it
    _parameters: dict | None = None  # counted before training, which may shard them
    dataset_names: tuple[str, ...] = ()  # files, folders or Hub ids of the rows, if the caller knows them

    def create_optimizer(self, *args, **kwargs):
        given = self.optimizer is not None  # by the user or an earlier call
        optimizer = super().create_optimizer(*args, **kwargs)
        branch, router = self.args.branch_learning_rate, self.args.router_learning_rate
        rates = {"thinking": branch, "non_thinking": branch, "router": router}
        if not given:
            move_to_rate(optimizer, self.model, {name: rate for name, rate in rates.items() if rate is not None})
        return optimizer

    def train(self, *args, **kwargs):
        self.accelerator.print(describe_trainable(self.plain_model))
        self._parameters = count_trainable(self.plain_model)
        if self.is_world_process_zero():
            write_run(self)
        if self.two_branch:
            self.plain_model.config.calibration = None  # belongs to the old weights
        return super().train(*args, **kwargs)

    def _clip_grad_norm(self, model):
        # Log the gradient norm of each group first. DeepSpeed does not expose gradients.
        groups = {}
        for name, parameter in self.plain_model.named_parameters():
            if parameter.grad is not None and self.two_branch and not self.is_deepspeed_enabled:
                groups.setdefault(group_of(name), []).append(parameter.grad)
        for group, gradients in groups.items():
            norm = torch.nn.utils.get_total_norm(gradients)
            norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
            self._metrics["train"][f"grad_norm/{group}"].append(norm.item())
        return super()._clip_grad_norm(model)

    def _add_router_loss(self) -> None:
        """Train the router through TRL's forward: its loss takes the place of TRL's auxiliary loss."""
        model = self.plain_model
        add_router_loss(model.get_base_model() if isinstance(model, PeftModel) else model, self._router_loss)
        self.aux_loss_enabled, self.router_aux_loss_coef = True, self.args.router_loss_coef

    @property
    def plain_model(self):
        """The model without the wrappers of distributed training, but still inside PEFT's if it has adapters."""
        return self.accelerator.unwrap_model(self.model)

    @property
    def _mode(self) -> str:
        """`"train"` or `"eval"`, the keys of TRL's metrics."""
        return "train" if self.model.training else "eval"

    @property
    def two_branch(self) -> bool:
        return self.model.config.model_type == MetisHomeConfig.model_type

    def _init_training_state(self, *args, **kwargs):
        epochs, steps = super()._init_training_state(*args, **kwargs)
        # The parent takes `max_steps` for the length of a stream, so it finds the position only within the first pass.
        again = isinstance(self.train_dataset, IterableDataset) and (self.state.epoch or 0) >= 1
        if again and not self.args.ignore_data_skip:
            raise ValueError(
                f"The checkpoint of step {self.state.global_step} is from a later pass over the streamed training "
                "dataset: its position is lost. Load it without streaming, or accept that with `ignore_data_skip=True`."
            )
        return epochs, steps

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        if not self._reload(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if not self._reload(self.state.best_model_checkpoint):
            super()._load_best_model()

    def _reload(self, folder: str) -> bool:
        """
        Load a dense checkpoint through `from_pretrained`. The parent matches stored names, but Qwen2.5-VL's differ from
        those in memory, so the run would silently continue from untrained weights.
        """
        model = self.plain_model
        if self.two_branch or isinstance(model, PeftModel) or self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return False
        saved = type(model).from_pretrained(folder, dtype=model.dtype)
        with torch.no_grad():
            model.load_state_dict(saved.state_dict())
        return True

    def create_model_card(self, model_name: str | None = None, dataset_name: str | None = None, tags=None):
        if not self._writes_card:
            super().create_model_card(model_name, dataset_name, tags)
        elif self.is_world_process_zero():
            names = [dataset_name] if isinstance(dataset_name, str) else dataset_name or []
            datasets = [name for name in names if hub_id(name)] or None
            self._write_card(Path(self.args.output_dir), title=model_name, datasets=datasets, tags=tags)

    def _save(self, output_dir: str | None = None, state_dict=None):
        super()._save(output_dir, state_dict)
        folder = Path(output_dir or self.args.output_dir)
        (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)  # a pickle; `run.json` has the settings
        if folder == Path(self.args.output_dir):
            write_run(self)
        if self._writes_card:
            self._write_card(folder)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        # The parent writes its arguments, a pickle, right before it uploads the folder; the Hub respects this file.
        ignore = Path(self.args.output_dir) / ".gitignore"
        if self.is_world_process_zero() and not ignore.exists():
            ignore.write_text(f"{TRAINING_ARGS_NAME}\n", encoding="utf-8")
        # The parent copies only weights and configuration from the checkpoint.
        for file in Path(checkpoint_folder).glob("*.py"):
            shutil.copy(file, self.args.output_dir)
        if self._writes_card and self.is_world_process_zero():
            self._write_card(Path(self.args.output_dir))
        super()._push_from_checkpoint(checkpoint_folder)

    @property
    def _writes_card(self) -> bool:
        """We write the card of a two-branch model; TRL writes that of a dense model, PEFT that of an adapter."""
        return self.two_branch and not isinstance(self.plain_model, PeftModel)

    def _write_card(self, folder: Path, **given) -> None:
        step = Step(self._stage, run_of(self), folder)
        facts = config_facts(self.plain_model.config) | history_after(step).facts()
        folder.mkdir(parents=True, exist_ok=True)
        # Results on the card belong to the old weights.
        write_model_card(folder, facts, model_id=self.hub_model_id or self.args.hub_model_id, results={}, **given)


def config_of(model, args):
    """The configuration of a model, given itself or as a folder or repository."""
    if not isinstance(model, str):
        return model.config
    given = {name: value for name, value in (args.model_init_kwargs or {}).items() if name in WHERE}
    if args.trust_remote_code:
        given["trust_remote_code"] = True
    try:
        return AutoConfig.from_pretrained(model, **given)
    except OSError as error:
        raise ValueError(f"`model` is {model!r}, which cannot be read: {error}\nPass a folder or a Hub id.") from error


def named_datasets(train_dataset, eval_dataset) -> dict:
    """The given datasets by the names that errors use."""
    evaluation = {"evaluation dataset": eval_dataset}
    if isinstance(eval_dataset, dict):
        evaluation = {f"evaluation dataset {name!r}": dataset for name, dataset in eval_dataset.items()}
    named = {"training dataset": train_dataset, **evaluation}
    return {where: dataset for where, dataset in named.items() if dataset is not None}


def check_config(args, config_class: type) -> None:
    """Raise an error for a configuration of TRL instead of ours."""
    if not isinstance(args, config_class):
        raise ValueError(f"`args` is a {type(args).__name__}, but must be a {config_class.__name__}.")
