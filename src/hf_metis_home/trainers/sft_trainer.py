"""
Stage-SFT: supervised training of branches and router in mixed batches (arXiv 2510.20519).

Over TRL's [`~trl.SFTTrainer`]. What is added, and the private parts of TRL 1.16 that it rests on:

- the router's loss. TRL computes the language-model loss in a forward of its own (`add_fused_lm_head`), which calls the
  backbone and drops what else it returns. That forward is wrapped once more: the router's logits are taken from the
  backbone's output and their cross-entropy is returned as `aux_loss`, which TRL adds, scales over accumulation steps
  and logs when `aux_loss_enabled`. It is part of the forward's output, as data-parallel wrappers need.
- what trains (`trainable`), a learning rate for the router, metrics per branch, checks of every row before training,
  and checkpoints that are complete Hub folders.

Not here: packing (a row takes one branch), and any loss on rows of the mode that a branch is not for.
"""

import dataclasses
import functools
import shutil
import types
from pathlib import Path

import torch
from datasets import Dataset, Image, List
from peft import PeftModel
from torch.nn import functional as F
from transformers import AutoConfig
from trl import SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from ..data import TRAINING_COLUMNS, check_columns, check_row
from ..hub_templates import render_model_card
from ..modeling import MetisHomeConfig
from .collator import MetisHomeCollator
from .parameter_groups import count_trainable, describe_trainable, freeze, group_of
from .sft_config import MetisHomeSFTConfig


class MetisHomeSFTTrainer(SFTTrainer):
    """
    Trains a two-branch model on rows of the row format (`prompt`, `images`, `completion`, `thinking`).

    The language-model loss of a row trains the branch that `thinking` names and the shared parts; the router learns to
    predict `thinking` from the prompt. Arguments are [`~trl.SFTTrainer`]'s.

    Logged beside TRL's metrics, over all that came since the last log: `lm_loss_thinking` and `lm_loss_non_thinking`
    (mean over tokens of that mode), `router_loss`, `router_accuracy`, and `thinking_ratio`, the share of rows that the
    router would send to the thinking branch at the configuration's threshold.

    Raises:
        ValueError: a model that has no branches, a dataset without the columns, a row that cannot be trained on, or a
            choice of `trainable` that leaves nothing to train. All before the first step.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from hf_metis_home import MetisHomeSFTConfig, MetisHomeSFTTrainer

    >>> trainer = MetisHomeSFTTrainer(
    ...     model="runs/hybrid",
    ...     args=MetisHomeSFTConfig(output_dir="runs/sft", router_loss_coef=1.0),
    ...     train_dataset=Dataset.from_list(rows),
    ... )
    >>> trainer.train()
    ```
    """

    _tag_names = ["trl", "sft", "metis-home"]

    def __init__(self, model, args: MetisHomeSFTConfig | None = None, train_dataset=None, eval_dataset=None, **kwargs):
        if args is None:
            args = MetisHomeSFTConfig("metis-home-sft")
        if not isinstance(args, MetisHomeSFTConfig):
            raise ValueError(
                f"`args` is a {type(args).__name__}, which does not say how branches and router are trained. Make it a "
                "MetisHomeSFTConfig; it takes every field of TRL's SFTConfig."
            )
        _check_model(model, args)
        _check_datasets(train_dataset, eval_dataset, args)
        if kwargs.get("peft_config") is not None and (args.trainable != "all" or args.train_router is not None):
            raise ValueError(
                f"`trainable` is {args.trainable!r} and `train_router` is {args.train_router}, but with a "
                "`peft_config` its `target_modules` and `modules_to_save` (for example ['router']) say what trains. "
                "Leave `trainable` at 'all' and `train_router` at None."
            )
        if kwargs.get("compute_loss_func") is not None:
            raise ValueError(
                "`compute_loss_func` makes TRL leave out every loss but its own, the router's too. Override "
                "`compute_loss` in a subclass instead."
            )
        super().__init__(model, args=args, train_dataset=train_dataset, eval_dataset=eval_dataset, **kwargs)

        model = self.accelerator.unwrap_model(self.model)
        if not isinstance(model, PeftModel):
            freeze(model, args.trainable, args.train_router)
        if not any(trained for trained, _ in count_trainable(model).values()):
            raise ValueError("No parameter is left to train: check `trainable`, `train_router` and the PEFT settings.")
        if isinstance(self.data_collator, DataCollatorForVisionLanguageModeling):
            streamed = any(not isinstance(dataset, Dataset) for dataset in _named(train_dataset, eval_dataset).values())
            # Nothing is cut: the collator around it refuses a row that is too long.
            collator = dataclasses.replace(self.data_collator, max_length=None, completion_only_loss=True)
            self.data_collator = MetisHomeCollator(collator, self.data_collator.max_length, check_rows=streamed)

        add_router_loss(model.get_base_model() if isinstance(model, PeftModel) else model, self._keep_statistics)
        self.aux_loss_enabled = True
        self.router_aux_loss_coef = args.router_loss_coef
        # Qwen2.5-VL says that its own loss does not take the number of tokens of all accumulated batches and ranks. The
        # loss here is not its own, and a mean of the batches' means would weigh tokens by the company they keep.
        self.model_accepts_loss_kwargs = True
        self._totals = {}  # per mode, sums of `STATISTICS` since the last log

    def _set_signature_columns_if_needed(self):
        super()._set_signature_columns_if_needed()
        if "thinking" not in self._signature_columns:
            self._signature_columns.append("thinking")

    def create_optimizer(self, *args, **kwargs):
        given = self.optimizer is not None  # by the user, or by an earlier call
        optimizer = super().create_optimizer(*args, **kwargs)
        rate = self.args.router_learning_rate
        if rate is None or given:
            return optimizer
        router = {id(p) for name, p in self.model.named_parameters() if group_of(name) == "router" and p.requires_grad}
        for group in list(optimizer.param_groups):
            moved = [parameter for parameter in group["params"] if id(parameter) in router]
            if moved:
                group["params"] = [parameter for parameter in group["params"] if id(parameter) not in router]
                rest = {name: value for name, value in group.items() if name not in ("params", "lr", "initial_lr")}
                optimizer.add_param_group({**rest, "params": moved, "lr": rate})
        return optimizer

    def train(self, *args, **kwargs):
        self.accelerator.print(describe_trainable(self.accelerator.unwrap_model(self.model)))
        return super().train(*args, **kwargs)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        mode = "train" if self.model.training else "eval"
        self._metrics[mode].pop("aux_loss", None)  # `router_loss`, under the name of another loss
        totals = self.accelerator.gather_for_metrics(self._statistics[None]).sum(dim=0)
        self._totals[mode] = totals + self._totals.get(mode, 0)
        return loss

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval"):
        _check_datasets(None, eval_dataset, self.args)
        self._eval_prefix = metric_key_prefix
        return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        mode = "train" if self.model.training else "eval"
        if mode in self._totals:
            totals = dict(zip(STATISTICS, self._totals.pop(mode).tolist(), strict=True))
            # With the name of the evaluation dataset, where there are several. TRL's own metrics lack it.
            prefix = "" if mode == "train" else f"{self._eval_prefix}_"
            for branch in ("thinking", "non_thinking"):
                if totals[f"tokens_{branch}"]:
                    logs[f"{prefix}lm_loss_{branch}"] = totals[f"nll_{branch}"] / totals[f"tokens_{branch}"]
            for name in ("router_loss", "router_accuracy", "thinking_ratio"):
                logs[f"{prefix}{name}"] = totals[name] / totals["rows"]
        super().log(logs, start_time)

    def _keep_statistics(self, outputs, router_logits: torch.Tensor, thinking: torch.BoolTensor) -> None:
        """Sums over one micro-batch, in the order of `STATISTICS`. Kept for `compute_loss`, which shares them."""
        with torch.no_grad():
            threshold = self.accelerator.unwrap_model(self.model).config.thinking_threshold
            routed = router_logits.softmax(dim=-1)[:, 1] >= threshold
            nll = -outputs.log_probs.sum(dim=1)  # [B]; zero where there is no label
            tokens = outputs.label_mask.sum(dim=1)
            per_branch = [(values * rows).sum() for rows in (thinking, ~thinking) for values in (nll, tokens)]
            router = [
                F.cross_entropy(router_logits, thinking.long(), reduction="sum"),
                (routed == thinking).sum(),
                routed.sum(),
                torch.tensor(len(thinking), device=nll.device),
            ]
            self._statistics = torch.stack([value.float() for value in (*per_branch, *router)])

    def create_model_card(self, model_name: str | None = None, dataset_name: str | None = None, tags=None):
        if isinstance(self.accelerator.unwrap_model(self.model), PeftModel):
            super().create_model_card(model_name, dataset_name, tags)
        elif self.is_world_process_zero():
            self._write_card(Path(self.args.output_dir), model_name, dataset_name)

    def _save(self, output_dir: str | None = None, state_dict=None):
        super()._save(output_dir, state_dict)
        if not isinstance(self.accelerator.unwrap_model(self.model), PeftModel):  # PEFT writes the card of an adapter
            self._write_card(Path(output_dir or self.args.output_dir))

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        # The parent copies weights and configuration from the checkpoint to the folder it uploads, but not the rest.
        for file in (*Path(checkpoint_folder).glob("*.py"), *Path(checkpoint_folder).glob("README.md")):
            shutil.copy(file, self.args.output_dir)
        super()._push_from_checkpoint(checkpoint_folder)

    def _write_card(self, folder: Path, model_name: str | None = None, dataset_name: str | None = None):
        config = self.accelerator.unwrap_model(self.model).config
        card = render_model_card(
            stage="sft",
            base_model=config._name_or_path or None,
            title=model_name,
            datasets=dataset_name,
            branch_kind=config.text_config.branch_kind,
            router_layer=config.text_config.router_layer,
            thinking_threshold=config.thinking_threshold,
        )
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "README.md").write_text(card, encoding="utf-8")


STATISTICS = (
    "nll_thinking",
    "tokens_thinking",
    "nll_non_thinking",
    "tokens_non_thinking",
    "router_loss",
    "router_accuracy",
    "thinking_ratio",
    "rows",
)


def add_router_loss(model, keep_statistics) -> None:
    """
    Make the fused forward that TRL has put on `model` return the router's cross-entropy as `aux_loss`.

    Args:
        model ([`MetisHomeForConditionalGeneration`]):
            Already patched by TRL's `add_fused_lm_head`.
        keep_statistics (`Callable`):
            Called with the outputs, the router's logits `(batch_size, 2)` and `thinking` `(batch_size,)`.
    """
    fused_forward = model.forward

    @functools.wraps(type(model).forward)
    def forward(self, *args, output_router_logits=None, **kwargs):
        # With an auxiliary loss on, TRL asks for `output_router_logits`, to balance the load of a mixture of experts.
        if not kwargs.get("fused_lm_head"):
            return fused_forward(*args, **kwargs)
        backbone_outputs = []
        handle = self.base_model.register_forward_hook(lambda module, args, output: backbone_outputs.append(output))
        try:
            outputs = fused_forward(*args, **kwargs)
        finally:
            handle.remove()
        router_logits, thinking = backbone_outputs[0].router_logits, kwargs["thinking"]
        outputs.aux_loss = F.cross_entropy(router_logits, thinking.long())
        keep_statistics(outputs, router_logits, thinking.bool())
        return outputs

    model.forward = types.MethodType(forward, model)


def _check_model(model, args: MetisHomeSFTConfig) -> None:
    if isinstance(model, str):
        trust = {"trust_remote_code": args.trust_remote_code} if args.trust_remote_code else {}
        config = AutoConfig.from_pretrained(model, **trust)
    else:
        config = model.config
    if config.model_type != MetisHomeConfig.model_type:
        raise ValueError(
            f"`model` is a {config.model_type!r} model without branches or router. Make it two-branch with "
            "`metis-home upcycle` or `hf_metis_home.upcycle` first, or train it as it is with TRL's SFTTrainer."
        )


def _named(train_dataset, eval_dataset) -> dict:
    """The datasets that are given, under the names that errors give them."""
    if isinstance(eval_dataset, dict):
        named = {f"evaluation dataset {name!r}": dataset for name, dataset in eval_dataset.items()}
    else:
        named = {"evaluation dataset": eval_dataset}
    named = {"training dataset": train_dataset, **named}
    return {where: dataset for where, dataset in named.items() if dataset is not None}


def _check_datasets(train_dataset, eval_dataset, args: MetisHomeSFTConfig) -> None:
    for where, dataset in _named(train_dataset, eval_dataset).items():
        if not isinstance(dataset, Dataset):
            continue  # streamed: rows are checked as they come
        check_columns(dataset.column_names, where)
        # Images stay encoded: they are counted, not looked at.
        plain = dataset.select_columns(list(TRAINING_COLUMNS)).with_format(None)
        if isinstance(plain.features["images"], List):
            plain = plain.cast_column("images", List(Image(decode=False)))
        for index, row in enumerate(plain):
            check_row(row, index, where)
    if isinstance(train_dataset, Dataset) and args.trainable in ("thinking", "non_thinking"):
        wanted = args.trainable == "thinking"
        if wanted not in train_dataset["thinking"]:
            raise ValueError(
                f"`trainable` is {args.trainable!r}, but no row of the training dataset has `thinking={wanted}`: there "
                "is nothing to train on. Add such rows, or choose another `trainable`."
            )
