"""Batches for a two-branch model: TRL's, with the branch of every row and the mask of its prompt."""

from dataclasses import dataclass
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
            With `completion_only_loss=True`: its labels tell prompt from completion.
        check_rows (`bool`, *optional*, defaults to `False`):
            Check every row as it comes, for streamed datasets that cannot be read ahead.
    """

    collator: DataCollatorForVisionLanguageModeling
    check_rows: bool = False

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        if self.check_rows:
            for index, row in enumerate(rows):
                check_row(row, f"{index} of a batch", "streamed dataset")
        # New dictionaries: TRL's collator writes into the ones it gets.
        columns = ("prompt", "completion", "images")
        batch = self.collator([{name: row[name] for name in columns} for row in rows])
        trained = batch["labels"] != -100
        if not trained.any(dim=1).all():
            row = int((~trained.any(dim=1)).nonzero()[0])
            raise ValueError(
                f"Row {row} of a batch has no token left to train on: `max_length={self.collator.max_length}` cut its "
                f"whole completion off. Raise `max_length`, or leave it at None. Its prompt: {rows[row]['prompt']}"
            )
        batch["thinking"] = torch.tensor([row["thinking"] for row in rows])
        batch["prompt_mask"] = batch["attention_mask"].bool() & ~trained
        return batch
