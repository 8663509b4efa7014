"""
What a table of outcomes says: how the ways to choose a branch compare, and what the router gains.

Nothing is generated. A missing answer counts as wrong and has no length. The router is asked together with the thinking
branch and fails with it; where its choice is unknown, its answer is missing too.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from types import SimpleNamespace

import numpy as np
from datasets import Dataset

from ..answers.format import FORMAT, AnswerFormat
from ..modeling.configuration_metis_home import BRANCHES
from ..modeling.router_metis_home import is_thinking
from .intervals import bootstrap_shares, interval
from .leakage import format_validity, leakage
from .policies import OURS, POOLED, expected, policy_shares
from .routing_metrics import calibration_error, call_performance, hacc, nauc, reliability


MODES = BRANCHES[::-1]  # in the order of the columns of arrays
CURVE_POINTS = 201  # at most, of a curve


def summarise(
    outcomes: Dataset,
    policy: str = "model",
    threshold: float = 0.5,
    pools: Mapping[str, Sequence[str]] | None = None,
    answer_format: AnswerFormat = FORMAT,
) -> dict[str, dict]:
    """
    Accuracy per task, and per pool of tasks.

    Args:
        outcomes ([`~datasets.Dataset`]):
            As [`~evaluation.outcomes.collect_outcomes`] returns them.
        policy (`str`, *optional*, defaults to `"model"`):
            Which answers count: `"model"`, the only one to each question; `"router"`, `"thinking"` or
            `"non_thinking"` if both branches answered.
        threshold (`float`, *optional*, defaults to 0.5):
            The router's.
        pools (`dict[str, Sequence[str]]`, *optional*):
            Name to the tasks to put together.
        answer_format ([`~answers.AnswerFormat`], *optional*):
            The tags that the model writes.

    Returns:
        `dict`: task or pool to `accuracy` and its `stderr` (binomial), `malformed` (share of answers) and
        `thinking_ratio`, all as shares, `n` and `mean_tokens`; None if unknown.

    Example:

    ```python
    >>> from hf_metis_home.evaluation.metrics import summarise
    >>> from hf_metis_home.evaluation.outcomes import read_outcomes

    >>> summarise(read_outcomes("outcomes.parquet"), "router", pools={"easy": ["corner", "digits"]})["easy"]["accuracy"]
    ```
    """
    table = outcomes.to_pandas()
    parts = dict(iter(table.groupby("task", sort=False)))
    parts |= {name: table[table["task"].isin(tasks)] for name, tasks in (pools or {}).items()}
    summaries = {}
    for name, part in parts.items():
        if len(part):
            rows = Rows(part, threshold, answer_format, "model" if policy == "model" else "router")
            share = rows.shares()[policy]
            accuracy = float(rows.right_of(share).mean())
            summaries[name] = {
                "accuracy": accuracy,
                "stderr": math.sqrt(accuracy * (1 - accuracy) / len(part)),
                "n": len(part),
                "malformed": _mean(expected(rows.malformed(), share)),
                "thinking_ratio": _mean(share),
                "mean_tokens": _mean(expected(rows.tokens, share)),
            }
    return summaries


def evaluate_outcomes(
    outcomes: Dataset,
    threshold: float,
    *,
    baselines: dict[str, Dataset] | None = None,
    seed: int = 0,
    draws: int = 1000,
    answer_format: AnswerFormat = FORMAT,
) -> dict:
    """
    All metrics of a table of outcomes.

    Args:
        outcomes ([`~datasets.Dataset`]):
            As [`~evaluation.outcomes.collect_outcomes`] returns them, of a two-branch model, one of its branches, or a
            dense model.
        threshold (`float`):
            The router's, in [0, 1]: thinking if its probability is at least this.
        baselines (`dict[str, Dataset]`, *optional*):
            Name to outcomes of a dense model on the same questions.
        seed, draws (`int`, *optional*, defaults to 0 and 1000):
            Seed and number of bootstrap samples.
        answer_format ([`~answers.AnswerFormat`], *optional*):
            The tags that the model writes.

    Returns:
        `dict`, for `json.dump`; None for an unknown figure:

        - `threshold`;
        - `tasks`: each task, and `"all"`, to `n`, `failed` (rows with an error), `policies`, `format` (share of
          well-formed answers per branch), `malformed_thinking` and `malformed_non_thinking` (share of answers without a
          final answer, which count as wrong), `leakage`, and if both branches answered `tokens_saved` and
          `seconds_saved` (as a share of always thinking), `hacc`, `apgr`, `cpt50`, `cpt80`, `nauc`, `regret`, `ece`.
          Policies are `"router"`, `"thinking"`, `"non_thinking"`, `"random"`, `"oracle"`, or `"model"` for a dense one,
          and the baselines, each with `accuracy`, its 95 % `interval`, `thinking_ratio`, `tokens`, `tokens_p95`,
          `seconds`; next to a router also `difference`, the router's accuracy minus this one, and the paired
          `difference_interval`;
        - `subjects`: task to subject to `n`, `accuracy` per policy and `thinking_ratio`;
        - `curve`: task and `"all"` to `threshold`, `accuracy`, `tokens`, `thinking_ratio` at every threshold that makes
          a difference (at most 201), from all to none thinking;
        - `reliability`: `"all"` to ten bins of the probability.

    Raises:
        ValueError: no rows, a task called `"all"`, a threshold outside [0, 1], a baseline with the name of a policy or
            with other questions.

    Example:

    ```python
    >>> from hf_metis_home.evaluation.metrics import evaluate_outcomes
    >>> from hf_metis_home.evaluation.outcomes import read_outcomes

    >>> metrics = evaluate_outcomes(read_outcomes("outcomes.parquet"), threshold=0.5)
    >>> metrics["tasks"]["all"]["policies"]["router"]["accuracy"]
    ```
    """
    if len(outcomes) == 0:
        raise ValueError("`outcomes` has no rows, so there is nothing to measure.")
    if not 0 <= threshold <= 1:
        raise ValueError(f"`threshold` is {threshold!r}, but it is compared with a probability and must be in [0, 1].")
    table = outcomes.to_pandas()
    if POOLED in set(table["task"]):
        raise ValueError(f"`outcomes` has a task called {POOLED!r}, the name for all tasks together. Rename the task.")
    dense = {name: _baseline(name, other.to_pandas(), table) for name, other in (baselines or {}).items()}
    parts = dict(iter(table.groupby("task", sort=False))) | {POOLED: table}
    metrics: dict = {"threshold": threshold, "tasks": {}, "subjects": {}, "curve": {}, "reliability": {}}
    # Of the whole table: a part of it that failed does not show what the model is.
    rows_of = partial(Rows, threshold=threshold, answer_format=answer_format)
    kind, kinds = rows_of(table).kind, {name: rows_of(other).kind for name, other in dense.items()}
    for task, part in parts.items():
        rows = rows_of(part, kind=kind)
        others = {
            name: rows_of(other if task == POOLED else other[other["task"] == task], kind=kinds[name])
            for name, other in dense.items()
        }
        metrics["tasks"][task] = _cells(rows, others, seed, draws)
        if kind == "router" and not np.isnan(rows.thinking).all():
            metrics["curve"][task] = _curve(rows)
        if task != POOLED and part["subject"].notna().any():
            metrics["subjects"][task] = {
                subject: _subject(rows_of(group, kind=kind)) for subject, group in part.groupby("subject")
            }
        if task == POOLED and kind == "router":
            metrics["reliability"][POOLED] = reliability(rows.right, np.nan_to_num(rows.probability))
    return metrics


def answer_format_of(run: dict) -> AnswerFormat:
    """The answer format in the record of a run (`run.json`); the default if it names none."""
    model = run.get("model")
    return AnswerFormat.of(SimpleNamespace(**model) if isinstance(model, dict) else None)


class Rows:
    """
    Columns of a table of outcomes as arrays, column 1 thinking; a missing answer is wrong and NaN long.

    `kind` is who chooses the branch: `"router"`, a dense `"model"`, or the only branch that answered.
    """

    def __init__(self, table, threshold: float, answer_format: AnswerFormat = FORMAT, kind: str | None = None):
        def columns(name: str) -> np.ndarray:  # [N, 2]; a column without any value is None
            return np.stack([table[f"{name}_{mode}"].astype(float).to_numpy() for mode in MODES], axis=1)

        self.table, self.answer_format = table, answer_format
        correct, self.tokens, self.seconds = columns("correct"), columns("tokens"), columns("seconds")
        self.answered, self.right = ~np.isnan(correct), np.nan_to_num(correct)
        self.probability = table["thinking_probability"].astype(float).to_numpy()
        self.thinking = self.route(threshold)
        self.modes = [mode for side, mode in enumerate(MODES) if self.answered[:, side].any()]
        if kind is None:
            both, routed = len(self.modes) == 2, not np.isnan(self.probability).all()
            kind = "router" if both and routed else self.modes[0] if len(self.modes) == 1 else "model"
        self.kind = kind

    def route(self, threshold: float) -> np.ndarray:
        """Whether the router thinks about each row at a threshold; NaN if it was not asked."""
        return np.where(np.isnan(self.probability), np.nan, is_thinking(self.probability, threshold))

    def malformed(self) -> np.ndarray:
        """Whether an answer has no final answer, `(N, 2)`; NaN for a missing answer."""
        values = np.full(self.answered.shape, np.nan)
        for side, mode in enumerate(MODES):
            finals = [self.answer_format.parse(text).final for text in self.texts(mode)]
            values[self.table[f"text_{mode}"].notna(), side] = [final is None for final in finals]
        return values

    def texts(self, mode: str) -> list[str]:
        return list(self.table[f"text_{mode}"].dropna())

    def shares(self) -> dict[str, np.ndarray]:
        """Policy to the share `(N,)` with which each row thinks; NaN if unknown."""
        shares = policy_shares(self.thinking, self.right[:, 1] - self.right[:, 0])
        if self.kind == "model":
            return {"model": np.where(self.answered.any(axis=1), self.answered[:, 1].astype(float), np.nan)}
        return shares if self.kind == "router" else {self.kind: shares[self.kind]}

    def right_of(self, share: np.ndarray) -> np.ndarray:
        """How often the answer of a policy is right, per row; 0 if its branch is unknown."""
        return np.nan_to_num(expected(self.right, share))


def _cells(rows: Rows, others: dict[str, Rows], seed: int, draws: int) -> dict:
    shares: dict[str, tuple[Rows, np.ndarray]] = {name: (rows, share) for name, share in rows.shares().items()}
    shares |= {name: (other, next(iter(other.shares().values()))) for name, other in others.items()}
    right = {name: source.right_of(share) for name, (source, share) in shares.items()}
    drawn = {}
    for source in [rows, *others.values()]:
        columns = {name: right[name] for name, (owner, _) in shares.items() if owner is source}
        drawn |= bootstrap_shares(columns, _questions(source.table), seed=seed, draws=draws)
    policies: dict[str, dict] = {}
    for name, (source, share) in shares.items():
        tokens = expected(source.tokens, share)
        policies[name] = {
            "accuracy": float(right[name].mean()),
            "interval": interval(drawn[name]),
            "thinking_ratio": _mean(share),
            "tokens": _mean(tokens),
            "tokens_p95": None if np.isnan(tokens).all() or name == "random" else float(np.nanpercentile(tokens, 95)),
            "seconds": _mean(expected(source.seconds, share)),
        }
    for name in policies.keys() - {"router"} if "router" in policies else ():
        policies[name] |= {
            "difference": policies["router"]["accuracy"] - policies[name]["accuracy"],
            "difference_interval": interval(drawn["router"] - drawn[name]),
        }
    malformed, texts = rows.malformed(), {mode: rows.texts(mode) for mode in MODES}
    cells = {
        "n": len(rows.table),
        "failed": int(rows.table["error"].notna().sum()),
        "policies": policies,
        "format": {mode: format_validity(texts[mode], mode == "thinking", rows.answer_format) for mode in rows.modes},
        **{f"malformed_{mode}": _mean(malformed[:, side]) for side, mode in enumerate(MODES)},
        "leakage": leakage(texts["non_thinking"], rows.tokens[rows.answered[:, 0], 0], rows.answer_format),
    }
    return cells | (_router(rows, policies) if rows.kind == "router" else {})


def _router(rows: Rows, policies: dict) -> dict:
    answered = rows.answered.all(axis=1) & ~np.isnan(rows.thinking)
    right, tokens, probability = rows.right[answered], rows.tokens[answered], rows.probability[answered]
    found: dict = dict.fromkeys(("hacc", "apgr", "cpt50", "cpt80", "nauc", "ece"))
    if answered.any():
        found = {
            "hacc": hacc(right, tokens, rows.thinking[answered] == 1),
            **call_performance(right, probability),
            "nauc": nauc(right, tokens, probability),
            "ece": calibration_error(reliability(right, probability)),
        }
    saved = {
        f"{kind}_saved": 1 - policies["router"][kind] / policies["thinking"][kind]
        if policies["thinking"][kind] and policies["router"][kind] is not None
        else None
        for kind in ("tokens", "seconds")
    }
    return found | saved | {"regret": policies["oracle"]["accuracy"] - policies["router"]["accuracy"]}


def _curve(rows: Rows) -> list[dict]:
    """The router at every threshold that makes a difference, from all to none thinking."""
    thresholds = np.unique(np.append(rows.probability[~np.isnan(rows.thinking)], 1.0))
    chosen = np.unique(np.linspace(0, len(thresholds) - 1, CURVE_POINTS).round().astype(int))
    curve = []
    for threshold in thresholds[chosen].tolist():
        share = rows.route(threshold)
        tokens = _mean(expected(rows.tokens, share))
        if tokens is not None:  # else not one answer has a length
            accuracy = float(rows.right_of(share).mean())
            point = {"threshold": threshold, "accuracy": accuracy, "tokens": tokens, "thinking_ratio": _mean(share)}
            curve.append(point)
    return curve


def _subject(rows: Rows) -> dict:
    shares = rows.shares()
    accuracy = {name: float(rows.right_of(share).mean()) for name, share in shares.items()}
    own = next((shares[name] for name in ("router", "model") if name in shares), np.array([np.nan]))
    return {"n": len(rows.table), "accuracy": accuracy, "thinking_ratio": _mean(own)}


def _baseline(name: str, table, ours):
    """Rows of a dense model, only for our questions."""
    if name in {policy.name for policy in OURS}:
        raise ValueError(f"`baselines` has a model called {name!r}, which is the name of a policy. Rename the model.")
    if table["thinking_probability"].notna().any():
        raise ValueError(
            f"`baselines` has {name!r}, which has a router's probabilities. Baselines are dense models; write a "
            "separate report for a two-branch model."
        )
    wanted = set(_questions(ours))
    if missing := sorted(wanted - set(_questions(table))):
        raise ValueError(
            f"`baselines` has {name!r}, which has no answer to {len(missing):,} of {len(wanted):,} questions, (task, "
            f"id) {missing[0]} for example. Evaluate it on the same questions."
        )
    return table[[key in wanted for key in _questions(table)]]


def _questions(table) -> list[tuple[str, str]]:
    return list(zip(table["task"], table["id"], strict=True))


def _mean(values: Iterable[float]) -> float | None:
    values = np.asarray(values, dtype=float)
    return None if np.isnan(values).all() else float(np.nanmean(values))
