"""Batches for a two-branch model: TRL's, plus the branch and the prompt mask of every row."""

from dataclasses import dataclass, field
from typing import Any

import torch
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from ..data import check_row


@dataclass
class MetisHomeCollator:
    """
    Adds `thinking` (`BoolTensor` `(batch_size,)`) and `prompt_mask` (`BoolTensor` `(batch_size, seq_len)`) to the batch
    of TRL's collator for prompt-completion rows.

    Args:
        collator ([`~trl.trainer.sft_trainer.DataCollatorForVisionLanguageModeling`]):
            With `completion_only_loss=True`, so that its labels tell prompt from completion, and `max_length=None`.
        max_length (`int`, *optional*):
            Most tokens of a row. A longer one is an error, because truncation would remove the end of its answer.
        check_rows (`bool`, *optional*, defaults to `False`):
            Check every row as it comes, for streamed datasets, which cannot be checked ahead.
        tasks (`dict[str, int]`, *optional*):
            Numbers of task names: adds `task` (`LongTensor` `(batch_size,)`, -1 for other tasks), for metrics.
    """

    collator: DataCollatorForVisionLanguageModeling
    max_length: int | None = None
    check_rows: bool = False
    tasks: dict[str, int] = field(default_factory=dict)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        if self.check_rows:
            for index, row in enumerate(rows):
                check_row(row, f"{index} of a batch", "streamed dataset")
        # New dictionaries, because TRL's collator modifies its inputs.
        columns = ("prompt", "completion", "images")
        batch = self.collator([{name: row[name] for name in columns} for row in rows])
        lengths = batch["attention_mask"].sum(dim=1)
        if self.max_length is not None and lengths.max() > self.max_length:
            longest = int(lengths.argmax())
            raise ValueError(
                f"Row {longest} of a batch has {int(lengths[longest])} tokens, but `max_length` is {self.max_length}. "
                f"Raise `max_length`, leave it at None, or drop such rows. Its prompt: {rows[longest]['prompt']}"
            )
        batch["thinking"] = torch.tensor([row["thinking"] for row in rows])  # [B]
        batch["prompt_mask"] = batch["attention_mask"].bool() & (batch["labels"] == -100)  # [B, T]
        if self.tasks:
            batch["task"] = torch.tensor([self.tasks.get(row.get("task"), -1) for row in rows])
        return batch
