"""Which branch each question prefers, and by how much: from labels, or from the outcomes of both branches."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from datasets import Dataset

from ..modeling.configuration_metis_home import BRANCHES


MODES = BRANCHES[::-1]  # in the order of the router's columns
OUTCOME_COLUMNS = ("task", "id", *(f"{what}_{mode}" for what in ("correct", "tokens") for mode in MODES))


@dataclass(frozen=True)
class Preferences:
    """
    What is known about `N` rows.

    Args:
        rows (`list[int]`):
            Their indices in the dataset.
        ids (`list[tuple[str, str]]`):
            The question of each row: its task and its id.
        target (`torch.Tensor` of shape `(N,)`):
            What the router's probability shall be: the label, or 1 where thinking gains and 0 where it does not.
        stake (`torch.Tensor` of shape `(N,)`):
            What the choice is worth: 1 for a label, the size of the gain for outcomes.
        gain (`torch.Tensor` of shape `(N,)`):
            Utility of thinking minus that of not thinking; for a label `2 * label - 1`.
        correct (`torch.Tensor` of shape `(N, 2)`):
            Per branch the share of right answers; for a label the share that agrees with the label.
        tokens (`torch.Tensor` of shape `(N, 2)`, *optional*):
            Per branch the mean length of the answers; None for labels.
    """

    rows: list[int]
    ids: list[tuple[str, str]]
    target: torch.Tensor
    stake: torch.Tensor
    gain: torch.Tensor
    correct: torch.Tensor
    tokens: torch.Tensor | None

    def select(self, indices: Sequence[int]) -> "Preferences":
        at = torch.tensor(indices, dtype=torch.long)
        return Preferences(
            rows=[self.rows[index] for index in indices],
            ids=[self.ids[index] for index in indices],
            target=self.target[at],
            stake=self.stake[at],
            gain=self.gain[at],
            correct=self.correct[at],
            tokens=None if self.tokens is None else self.tokens[at],
        )


def preferences_from_labels(rows: Sequence[dict]) -> Preferences:
    """
    From the column `thinking`: true or false, or the share of thinking in [0, 1].

    Raises:
        ValueError: a row without a label, or with one that is no such value.
    """
    labels = _column(rows, "thinking")
    for number, label in enumerate(labels):
        if not isinstance(label, (bool, int, float)) or not 0 <= label <= 1:  # NaN is in no interval
            raise ValueError(
                f"Row {number} of `rows` has `thinking` {label!r}, but a label must be true or false, or a share of "
                "thinking in [0, 1]. Set it, drop the row, or give `outcomes`."
            )
    target = torch.tensor([float(label) for label in labels])
    correct = torch.stack([1 - target, target], dim=1)
    return Preferences(
        list(range(len(rows))), question_ids(rows), target, torch.ones_like(target), 2 * target - 1, correct, None
    )


def preferences_from_outcomes(rows: Sequence[dict], outcomes: Dataset, token_cost: float) -> Preferences:
    """
    From what both branches made of the same questions: `gain = correct_thinking - correct_non_thinking - token_cost *
    (tokens_thinking - tokens_non_thinking)`, averaged over the samples of a question. Rows and outcomes are joined by
    `task` and `id`; rows without an outcome of both branches are left out.

    Raises:
        ValueError: a missing column; no row that has outcomes of both branches; outcomes of other rows, where the rows
            have no `id` and go by their number.
    """
    if missing := [column for column in OUTCOME_COLUMNS if column not in outcomes.column_names]:
        raise ValueError(
            f"`outcomes` has no column {', '.join(map(repr, missing))}; it has {outcomes.column_names}. Give the table "
            "that `metis-home eval` writes."
        )
    samples: dict[tuple[str, str], list[list[float]]] = {}
    columns = [list(outcomes[column]) for column in OUTCOME_COLUMNS]
    for task, identity, *values in zip(*columns, strict=True):
        # A sample without an answer of both branches compares nothing.
        if all(value is not None and math.isfinite(value) for value in values):
            samples.setdefault((str(task), str(identity)), []).append([float(value) for value in values])
    if not samples:
        raise ValueError(
            "`outcomes` has no row with the answers of both branches, as those of a dense model, or of one loaded "
            "branch, have none. Collect them with the two-branch model."
        )
    keys = question_ids(rows)
    found = [number for number, key in enumerate(keys) if key in samples]
    if not found:
        raise ValueError(
            f"`outcomes` has no question of `rows`: the rows have (task, id) {_some(keys)}, the outcomes "
            f"{_some(list(samples))}. Give the rows that the outcomes were collected on, in the same order where they "
            "have no column `id`."
        )
    known = set(keys)
    foreign = [key for key in samples if key not in known]
    if foreign and all(value is None for value in _column(rows, "id")):
        raise ValueError(
            f"`outcomes` has {len(foreign)} questions that no row of `rows` is, (task, id) {_some(foreign)}. The rows "
            "have no column `id`, so they go by their number, and these are other rows or another order. Give the rows "
            "that the outcomes were collected on, of the same split, or ids to both."
        )
    means = torch.tensor([[sum(v) / len(v) for v in zip(*samples[keys[number]], strict=True)] for number in found])
    correct, tokens = means[:, :2], means[:, 2:]  # [N, 2], columns as in MODES
    gain = correct[:, 1] - correct[:, 0] - token_cost * (tokens[:, 1] - tokens[:, 0])
    gain = torch.where(gain.abs() < 1e-9, 0.0, gain)  # rounding is no preference
    return Preferences(found, [keys[number] for number in found], (gain > 0).float(), gain.abs(), gain, correct, tokens)


def split_questions(preferences: Preferences, validation_fraction: float, seed: int) -> tuple[Preferences, Preferences]:
    """
    Rows to fit on, and rows to hold out. All rows of a question are on one side; each side has about the same shares of
    questions that prefer thinking, prefer not thinking, and do not care.

    Raises:
        ValueError: fewer than two questions that prefer one of the branches.
    """
    totals: dict[tuple[str, str], float] = {}
    for identity, gain in zip(preferences.ids, preferences.gain.tolist(), strict=True):
        totals[identity] = totals.get(identity, 0.0) + gain
    kinds = {
        "thinking": sorted(identity for identity, gain in totals.items() if gain > 0),
        "non-thinking": sorted(identity for identity, gain in totals.items() if gain < 0),
        None: sorted(identity for identity, gain in totals.items() if gain == 0),
    }
    if len(kinds[None]) == len(totals):
        raise ValueError(
            f"None of the {len(totals)} questions prefers a branch: every gain is 0, so there is nothing to learn. "
            "Where both branches are equally right, `token_cost` makes the shorter answer the better one."
        )
    held_out: set[tuple[str, str]] = set()
    for branch, identities in kinds.items():
        if branch is not None and len(identities) < 2:
            raise ValueError(
                f"{len(identities)} of {len(totals)} questions prefer the {branch} branch, but the router needs at "
                "least two for each branch: one to learn from and one to be tested on. Add such questions; where none "
                "exist, no router is needed (`thinking=True` or `False`). With outcomes, another `token_cost` moves "
                "the preference."
            )
        random.Random(f"{seed} {branch}").shuffle(identities)
        count = round(validation_fraction * len(identities))
        held_out |= set(identities[: count if branch is None else min(max(count, 1), len(identities) - 1)])
    sides = ([], [])
    for index, identity in enumerate(preferences.ids):
        sides[identity in held_out].append(index)
    return preferences.select(sides[0]), preferences.select(sides[1])


def question_ids(rows: Sequence[dict]) -> list[tuple[str, str]]:
    """The `task` of each row as text, and its `id`, or its index where there is none."""
    columns = zip(_column(rows, "task"), _column(rows, "id"), strict=True)
    return [(str(task), str(number if value is None else value)) for number, (task, value) in enumerate(columns)]


def _column(rows: Sequence[dict], name: str) -> list:
    """A column without decoding the images beside it; None where it is missing."""
    if isinstance(rows, Dataset):
        return list(rows[name]) if name in rows.column_names else [None] * len(rows)
    return [row.get(name) for row in rows]


def _some(keys: list) -> str:
    return ", ".join(map(str, keys[:2])) + (", ..." if len(keys) > 2 else "")
