"""Which branch is better for each question, and by how much: from labels, or from the outcomes of both branches."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from datasets import Dataset

from ..conversion.checkpoint import some
from ..modeling.configuration_metis_home import BRANCHES


MODES = BRANCHES[::-1]  # in the order of the router's columns
OUTCOME_COLUMNS = ("task", "id", *(f"{what}_{mode}" for what in ("correct", "tokens") for mode in MODES))


@dataclass(frozen=True)
class Preferences:
    """
    What is known about `N` rows. Column 1 of a matrix is the thinking branch.

    Args:
        rows (`list[int]`):
            Indices in the dataset.
        ids (`list[tuple[str, str]]`):
            Task and id of each row's question.
        target (`torch.Tensor` of shape `(N,)`):
            Target of the router's probability: the label, or 1 if thinking gains something, otherwise 0.
        stake (`torch.Tensor` of shape `(N,)`):
            What the choice is worth: 1 for a label, the absolute gain for outcomes.
        gain (`torch.Tensor` of shape `(N,)`):
            Utility of thinking minus that of not thinking; for a label `2 * label - 1`.
        correct (`torch.Tensor` of shape `(N, 2)`):
            Share of right answers of each branch; for a label how far it agrees with each.
        tokens (`torch.Tensor` of shape `(N, 2)`, *optional*):
            Mean length of each branch's answers; None for labels.
    """

    rows: list[int]
    ids: list[tuple[str, str]]
    target: torch.Tensor
    stake: torch.Tensor
    gain: torch.Tensor
    correct: torch.Tensor
    tokens: torch.Tensor | None

    def select(self, indices: Sequence[int]) -> "Preferences":
        """The preferences of some of the rows."""

        def chosen(values):
            return [values[i] for i in indices] if isinstance(values, list) else values[torch.tensor(indices).long()]

        return Preferences(**{n: None if values is None else chosen(values) for n, values in vars(self).items()})


def preferences_from_labels(rows: Sequence[dict]) -> Preferences:
    """
    Preferences from the column `thinking`: true or false, or a share of thinking in [0, 1].

    Raises:
        ValueError: a row without a label, or with another value.
    """
    labels = _column(rows, "thinking")
    for number, label in enumerate(labels):
        if not isinstance(label, (bool, int, float)) or not 0 <= label <= 1:  # False for NaN
            raise ValueError(f"Row {number} of `rows` has `thinking` {label!r}. It must be true, false or in [0, 1].")
    target = torch.tensor([float(label) for label in labels])
    correct = torch.stack([1 - target, target], dim=1)
    return Preferences(
        list(range(len(rows))), question_ids(rows), target, torch.ones_like(target), 2 * target - 1, correct, None
    )


def preferences_from_outcomes(rows: Sequence[dict], outcomes: Dataset, token_cost: float) -> Preferences:
    """
    Preferences from both branches' answers to the same questions: `gain = correct_thinking - correct_non_thinking -
    token_cost * (tokens_thinking - tokens_non_thinking)`, averaged over a question's samples. Rows and outcomes are
    joined by `task` and `id`; rows without outcomes of both branches are left out.

    Raises:
        ValueError: a missing column; no row with outcomes of both branches; outcomes of other rows, if the rows have no
            `id` and are identified by their position.
    """
    if missing := [column for column in OUTCOME_COLUMNS if column not in outcomes.column_names]:
        raise ValueError(
            f"`outcomes` has no column {', '.join(map(repr, missing))}; it has {outcomes.column_names}. Pass the "
            "table that `metis-home eval` writes."
        )
    # The mean over a question's samples; only those with answers of both branches compare them.
    table = outcomes.select_columns(list(OUTCOME_COLUMNS)).to_pandas().astype({"task": str, "id": str})
    table = table.astype(dict.fromkeys(OUTCOME_COLUMNS[2:], float)).replace([math.inf, -math.inf], math.nan).dropna()
    means = table.groupby(["task", "id"]).mean()
    if means.empty:
        raise ValueError("`outcomes` has no row with answers of both branches. Evaluate a model that has both.")
    keys = question_ids(rows)
    found = [number for number, key in enumerate(keys) if key in means.index]
    if not found:
        raise ValueError(
            f"`outcomes` has no question of `rows`: the rows have (task, id) {some(keys)}, the outcomes "
            f"{some(list(means.index))}. Pass the rows that they are from, in the same order if they have no `id`."
        )
    known = set(keys)
    foreign = [key for key in means.index if key not in known]
    if foreign and all(value is None for value in _column(rows, "id")):
        raise ValueError(
            f"`outcomes` has {len(foreign)} questions that are not in `rows`, (task, id) {some(foreign)}. Without a "
            "column `id`, rows are identified by position. Pass the rows that the outcomes are from, or add ids."
        )
    ids = [keys[number] for number in found]
    correct, tokens = torch.tensor(means.loc[ids].to_numpy(), dtype=torch.float32).split(2, dim=1)  # each [N, 2]
    gain = correct[:, 1] - correct[:, 0] - token_cost * (tokens[:, 1] - tokens[:, 0])
    gain = torch.where(gain.abs() < 1e-9, 0.0, gain)  # not a rounding error
    return Preferences(found, ids, (gain > 0).float(), gain.abs(), gain, correct, tokens)


def split_questions(preferences: Preferences, validation_fraction: float, seed: int) -> tuple[Preferences, Preferences]:
    """
    Split into rows to fit on and rows to hold out. All rows of a question are on one side; both sides have about the
    same shares of questions for which thinking is better, worse, and equal.

    Raises:
        ValueError: fewer than two questions for which one of the branches is better.
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
            f"Both branches are equally good for all {len(totals)} questions: nothing to learn. Set a `token_cost`."
        )
    held_out: set[tuple[str, str]] = set()
    for branch, identities in kinds.items():
        if branch is not None and len(identities) < 2:
            raise ValueError(
                f"The {branch} branch is better for {len(identities)} of {len(totals)} questions, but fitting needs "
                "two. Add such questions, change `token_cost`, or do without a router (`thinking=True` or `False`)."
            )
        random.Random(f"{seed} {branch}").shuffle(identities)
        count = round(validation_fraction * len(identities))
        held_out |= set(identities[: count if branch is None else min(max(count, 1), len(identities) - 1)])
    sides = ([], [])
    for index, identity in enumerate(preferences.ids):
        sides[identity in held_out].append(index)
    return preferences.select(sides[0]), preferences.select(sides[1])


def question_ids(rows: Sequence[dict]) -> list[tuple[str, str]]:
    """Each row's `task` as text, and its `id`, or its index if it has none."""
    columns = zip(_column(rows, "task"), _column(rows, "id"), strict=True)
    return [(str(task), str(number if value is None else value)) for number, (task, value) in enumerate(columns)]


def _column(rows: Sequence[dict], name: str) -> list:
    """A column, read without decoding images; None where it is missing."""
    if isinstance(rows, Dataset):
        return list(rows[name]) if name in rows.column_names else [None] * len(rows)
    return [row.get(name) for row in rows]
