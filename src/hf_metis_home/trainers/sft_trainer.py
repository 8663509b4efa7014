"""
Stage-SFT: supervised training of branches and router in mixed batches (arXiv 2510.20519).

On top of TRL's [`~trl.SFTTrainer`]. What is added, with the private parts of TRL 1.16 that it relies on:

- the router's loss, inside the forward that TRL trains through (`fused_forward.py`);
- what trains (`trainable`), learning rates per group, metrics per branch, checks of every row before training, and
  checkpoints that are complete Hub folders (`mixin.py`).

Left out: packing (a row takes one branch), and any loss of a branch on rows of the other mode.
"""

import dataclasses
from collections.abc import Callable

import torch
from datasets import Dataset, Image, List
from peft import PeftModel
from torch.nn import functional as F
from trl import SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from ..data import TRAINING_COLUMNS, check_columns, check_row
from ..modeling import MetisHomeConfig
from ..modeling.configuration_metis_home import BRANCHES
from ..modeling.router_metis_home import is_thinking
from .collator import MetisHomeCollator
from .mixin import MetisHomeTrainerMixin, check_config, config_of, named_datasets
from .mode_sampler import ModeSampler
from .parameter_groups import count_trainable, freeze, trained_groups
from .sft_config import MetisHomeSFTConfig


class MetisHomeSFTTrainer(MetisHomeTrainerMixin, SFTTrainer):
    """
    Trains a two-branch model on rows with `prompt`, `images`, `completion` and `thinking`.

    The language-model loss of a row trains the branch named by `thinking` and the shared parts; the router learns to
    predict `thinking` from the prompt. Arguments are [`~trl.SFTTrainer`]'s.

    Logged besides TRL's metrics, since the last log: `lm_loss_thinking` and `lm_loss_non_thinking` (mean over the
    tokens of that mode), `router_loss`, `router_accuracy`, and `thinking_ratio`, the share of rows that the router
    would send to the thinking branch at the configured threshold; with a column `task` also `thinking_ratio/{task}`;
    `grad_norm/{group}`, the gradient norms of branches, router and shared parts before clipping.

    Raises:
        ValueError: the model has no branches, a dataset lacks columns, a row cannot be trained on, or `trainable`
            leaves nothing to train. All before the first step.

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

    data_collator: Callable  # TRL's inside ours
    _tag_names = ["trl", "sft", "metis-home"]
    _stage = "sft"
    _eval_prefix = "eval"  # of logged metrics; with several evaluation datasets it names the current one

    def __init__(self, model, args: MetisHomeSFTConfig | None = None, train_dataset=None, eval_dataset=None, **kwargs):
        # Check everything that can be checked before the model is loaded.
        args = MetisHomeSFTConfig("metis-home-sft") if args is None else args
        check_config(args, MetisHomeSFTConfig)
        if (model_type := config_of(model, args).model_type) != MetisHomeConfig.model_type:
            raise ValueError(
                f"`model` is a {model_type!r} model without branches or router. Make it two-branch with "
                "`metis-home upcycle` or `hf_metis_home.upcycle` first, or use TRL's SFTTrainer."
            )
        check_rows(train_dataset, eval_dataset, args)
        if kwargs.get("peft_config") is not None and (args.trainable != "all" or args.train_router is not None):
            raise ValueError(
                f"`trainable` is {args.trainable!r} and `train_router` is {args.train_router}, but with a `peft_config`"
                " its `target_modules` and `modules_to_save` (such as ['router']) decide. Leave both at their defaults."
            )
        if kwargs.get("compute_loss_func") is not None:
            raise ValueError("`compute_loss_func` makes TRL drop the router's loss. Override `compute_loss`.")
        super().__init__(model, args=args, train_dataset=train_dataset, eval_dataset=eval_dataset, **kwargs)

        # What trains. With PEFT, its configuration has decided already.
        model = self.plain_model
        if not isinstance(model, PeftModel):
            freeze(model, trained_groups(args.trainable, args.train_router))
        if not any(trained for trained, _ in count_trainable(model).values()):
            raise ValueError("No parameter is left to train: check `trainable`, `train_router` and the PEFT settings.")

        # TRL's collator, with the branch and the prompt mask of every row added by ours.
        inner = self.data_collator
        if isinstance(inner, DataCollatorForVisionLanguageModeling):
            named = named_datasets(train_dataset, eval_dataset)
            streamed = any(not isinstance(dataset, Dataset) for dataset in named.values())
            # No truncation: ours refuses rows that are too long.
            collator = dataclasses.replace(inner, max_length=None, completion_only_loss=True)
            self._tasks = _task_names(named)
            numbers = {name: number for number, name in enumerate(self._tasks)}
            self.data_collator = MetisHomeCollator(collator, inner.max_length, streamed, numbers)

        self._add_router_loss()
        # Qwen2.5-VL says that its own loss does not take the token count of all accumulated batches and ranks. TRL's
        # loss does; a mean of the batches' means would weight tokens by the other tokens in their batch.
        self.model_accepts_loss_kwargs = True
        self._totals = {}  # by mode: sums of `STATISTICS` since the last log
        self._task_totals = {}  # by mode: rows and thinking rows of every task since the last log
        self._class_weights = _class_weights(train_dataset) if args.router_class_balance else None

    def _set_signature_columns_if_needed(self):
        super()._set_signature_columns_if_needed()
        self._signature_columns += [name for name in ("thinking", "task") if name not in self._signature_columns]

    def _get_train_sampler(self, train_dataset=None):
        args = self.args
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if not isinstance(dataset, Dataset) or not (args.one_mode_batches or args.curriculum != "joint"):
            return super()._get_train_sampler(train_dataset)
        size = self._train_batch_size if args.one_mode_batches else None
        seed = args.seed if args.data_seed is None else args.data_seed
        return ModeSampler(list(dataset["thinking"]), args.curriculum, args.replay_share, size, seed)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        # The forward inside computes both losses and keeps this micro-batch's statistics (`_router_loss`).
        task = inputs.pop("task", None)  # [B]
        loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        mode = self._mode
        self._metrics[mode].pop("aux_loss", None)  # the router's loss, logged under its own name

        # Add up over ranks and micro-batches until the next log.
        totals = self.accelerator.gather_for_metrics(self._statistics[None]).sum(dim=0)  # [statistics]
        self._totals[mode] = totals + self._totals.get(mode, 0)
        if task is not None:
            task, routed = self.accelerator.gather_for_metrics((task, self._routed))
            counts = torch.stack([task == number for number in range(len(self._tasks))])  # [tasks, B of all ranks]
            totals = torch.stack([counts.sum(dim=1), (counts & routed).sum(dim=1)])  # [2, tasks]
            self._task_totals[mode] = totals + self._task_totals.get(mode, 0)
        return loss

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval"):
        check_rows(None, eval_dataset, self.args)
        self._eval_prefix = metric_key_prefix
        # Drop leftovers of `predict` or an interrupted evaluation.
        self._totals.pop("eval", None)
        self._task_totals.pop("eval", None)
        self._metrics["eval"].clear()
        return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        mode = self._mode
        # With several evaluation datasets, their names tell the metrics apart; TRL's own lack them.
        prefix = "" if mode == "train" else f"{self._eval_prefix}_"
        if mode in self._totals:
            totals = dict(zip(STATISTICS, self._totals.pop(mode).tolist(), strict=True))
            for branch in BRANCHES:
                if totals[f"tokens_{branch}"]:
                    logs[f"{prefix}lm_loss_{branch}"] = totals[f"nll_{branch}"] / totals[f"tokens_{branch}"]
            for name in ("router_loss", "router_accuracy", "thinking_ratio"):
                logs[f"{prefix}{name}"] = totals[name] / totals["rows"]
        if mode in self._task_totals:
            for task, rows, routed in zip(self._tasks, *self._task_totals.pop(mode).tolist(), strict=True):
                if rows:
                    logs[f"{prefix}thinking_ratio/{task}"] = routed / rows
        super().log(logs, start_time)

    def _router_loss(self, outputs, branch_logits: torch.Tensor, thinking: torch.BoolTensor, router_target=None):
        self._keep_statistics(outputs, branch_logits, thinking.bool())
        losses = F.cross_entropy(branch_logits, thinking.long(), reduction="none")  # [B]
        if self._class_weights is not None:
            # Not a weighted mean: the share of a mode in a batch must not change how much its rows count.
            losses = losses * self._class_weights.to(losses.device)[thinking.long()]
        return losses.mean()

    @torch.no_grad()
    def _keep_statistics(self, outputs, branch_logits: torch.Tensor, thinking: torch.BoolTensor) -> None:
        """Sums over one micro-batch, in the order of `STATISTICS`, for `compute_loss` to add up over ranks."""
        probability = branch_logits.softmax(dim=-1)[:, 1]  # [B]
        self._routed = routed = is_thinking(probability, self.model.config.thinking_threshold)
        nll = -outputs.log_probs.sum(dim=1)  # [B]; zero where there is no label
        tokens = outputs.label_mask.sum(dim=1)  # [B]
        per_branch = [(values * rows).sum() for rows in (thinking, ~thinking) for values in (nll, tokens)]
        router_loss = F.cross_entropy(branch_logits, thinking.long(), reduction="sum")
        rows = torch.tensor(len(thinking), device=nll.device)
        values = (*per_branch, router_loss, (routed == thinking).sum(), routed.sum(), rows)
        self._statistics = torch.stack([value.float() for value in values])


STATISTICS = (
    "nll_thinking", "tokens_thinking", "nll_non_thinking", "tokens_non_thinking",
    "router_loss", "router_accuracy", "thinking_ratio", "rows",
)  # fmt: skip


def _task_names(named: dict) -> list[str]:
    """Names in the column `task` of datasets that can be read ahead, in the same order on all ranks."""
    names = set()
    for dataset in named.values():
        if isinstance(dataset, Dataset) and "task" in dataset.column_names:
            names.update(dataset.unique("task"))
    return sorted(name for name in names if name is not None)


def _class_weights(train_dataset) -> torch.Tensor:
    """Weights of non-thinking and thinking rows, such that each mode has half of the total: `(2,)`."""
    if not isinstance(train_dataset, Dataset):
        raise ValueError("`router_class_balance` cannot count rows of a streamed dataset. Load it without streaming.")
    modes = torch.tensor(train_dataset["thinking"]).long()
    counts = torch.bincount(modes, minlength=2)
    return len(modes) / (2 * counts.clamp(min=1))


def check_rows(train_dataset, eval_dataset, args: MetisHomeSFTConfig) -> None:
    """Raise an error for a dataset, or its first row, that cannot be trained or evaluated on."""
    for where, dataset in named_datasets(train_dataset, eval_dataset).items():
        if not isinstance(dataset, Dataset):
            continue  # streamed: the collator checks rows as they come
        check_columns(dataset.column_names, where)
        # Images stay encoded: they are only counted.
        plain = dataset.select_columns(list(TRAINING_COLUMNS)).with_format(None)
        if isinstance(plain.features["images"], List):
            plain = plain.cast_column("images", List(Image(decode=False)))
        for index, row in enumerate(plain):
            check_row(row, index, where)
    if isinstance(train_dataset, Dataset) and args.trainable in ("thinking", "non_thinking"):
        wanted = args.trainable == "thinking"
        if wanted not in train_dataset["thinking"]:
            raise ValueError(
                f"`trainable` is {args.trainable!r}, but no training row has `thinking={wanted}`. Add some."
            )
