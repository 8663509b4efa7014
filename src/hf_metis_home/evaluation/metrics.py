"""
What a table of outcomes says: every way to choose a branch beside every other, and what the router is worth.

Arithmetic alone; nothing is generated. An answer that is missing counts as wrong and has no length; so does the
router's where its choice is not known, since it is asked together with the thinking branch and fails with it.
"""

from collections.abc import Iterable

import numpy as np
from datasets import Dataset

from ..modeling.configuration_metis_home import BRANCHES
from ..modeling.router_metis_home import is_thinking
from .intervals import bootstrap_shares, interval
from .leakage import format_validity, leakage
from .policies import POOLED
from .routing_metrics import calibration_error, call_curve, call_performance, hacc, nauc, reliability


MODES = BRANCHES[::-1]  # in the order of the columns of arrays
CURVE_POINTS = 201  # of a curve, at the most
OWN = ("router", "thinking", "non_thinking", "random", "oracle", "model")


def evaluate_outcomes(
    outcomes: Dataset,
    threshold: float,
    *,
    baselines: dict[str, Dataset] | None = None,
    seed: int = 0,
    draws: int = 1000,
) -> dict:
    """
    All metrics of a table of outcomes.

    Args:
        outcomes ([`~datasets.Dataset`]):
            As [`~evaluation.outcomes.collect_outcomes`] gives them, of a two-branch model, one of its branches, or a
            dense model.
        threshold (`float`):
            The router's, in [0, 1]: thinking where its probability is at least this.
        baselines (`dict[str, Dataset]`, *optional*):
            Name to outcomes of a dense model on the same questions.
        seed, draws (`int`, *optional*, defaults to 0 and 1000):
            Of the bootstrap.

    Returns:
        `dict`, for `json.dump`; None where a figure is not known:

        - `threshold`;
        - `tasks`: each task, and `"all"`, to `n`, `failed` (rows with an error), `policies`, `format` (share of
          well-formed answers per branch), `leakage`, and where both branches answered `tokens_saved` and
          `seconds_saved` (of thinking always, as a share), `hacc`, `apgr`, `cpt50`, `cpt80`, `nauc`, `regret`, `ece`.
          Policies are `"router"`, `"thinking"`, `"non_thinking"`, `"random"`, `"oracle"`, or `"model"` of a dense one,
          and the baselines, each with `accuracy`, `interval` of 95 %, `thinking_ratio`, `tokens`, `tokens_p95`,
          `seconds`; beside a router also `difference`, the router's accuracy minus this one, and the paired
          `difference_interval`;
        - `subjects`: task to subject to `n`, `accuracy` per policy and `thinking_ratio`;
        - `curve`: task and `"all"` to `threshold`, `accuracy`, `tokens`, `thinking_ratio` at every threshold that makes
          a difference (at most 201), from all to none thinking;
        - `reliability`: `"all"` to ten bins of the probability.

    Raises:
        ValueError: no rows, a task called `"all"`, a threshold outside [0, 1], a baseline that has the name of a
            policy, or other questions.

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
        raise ValueError(f"`outcomes` has a task called {POOLED!r}, which is what all tasks together are called here.")
    dense = {name: _baseline(name, other.to_pandas(), table) for name, other in (baselines or {}).items()}
    parts = {task: part for task, part in table.groupby("task", sort=False)} | {POOLED: table}
    metrics: dict = {"threshold": threshold, "tasks": {}, "subjects": {}, "curve": {}, "reliability": {}}
    # Of the whole table: in a part of it that failed nothing shows what the model is.
    kind = Rows(table, threshold).kind
    kinds = {name: Rows(other, threshold).kind for name, other in dense.items()}
    for task, part in parts.items():
        rows = Rows(part, threshold, kind)
        others = {
            name: Rows(other if task == POOLED else other[other["task"] == task], threshold, kinds[name])
            for name, other in dense.items()
        }
        metrics["tasks"][task] = _cells(rows, others, seed, draws)
        if kind == "router" and not np.isnan(rows.thinking).all():
            metrics["curve"][task] = _curve(rows)
        if task != POOLED and part["subject"].notna().any():
            metrics["subjects"][task] = {
                subject: _subject(Rows(group, threshold, kind)) for subject, group in part.groupby("subject")
            }
        if task == POOLED and kind == "router":
            metrics["reliability"][POOLED] = reliability(rows.right, rows.probability)
    return metrics


class Rows:
    """
    Columns of a table of outcomes as arrays, column 1 thinking; a missing answer is wrong and NaN long.

    `kind` is who chooses the branch: `"router"`, a dense `"model"`, or the one branch that there is.
    """

    def __init__(self, table, threshold: float, kind: str | None = None):
        self.table = table
        # `object` columns hold None where a model left them empty.
        number = {
            kind: np.stack([table[f"{kind}_{branch}"].astype(float).to_numpy() for branch in MODES], axis=1)
            for kind in ("correct", "tokens", "seconds")
        }
        self.answered = ~np.isnan(number["correct"])  # [N, 2]
        self.right = np.nan_to_num(number["correct"])
        self.tokens, self.seconds = number["tokens"], number["seconds"]
        asked = table["thinking_probability"].astype(float).to_numpy()
        self.probability = np.nan_to_num(asked)
        self.thinking = np.where(np.isnan(asked), np.nan, is_thinking(asked, threshold))
        self.branches = [branch for number, branch in enumerate(MODES) if self.answered[:, number].any()]
        if kind is None:
            both, routed = len(self.branches) == 2, not np.isnan(asked).all()
            kind = "router" if both and routed else self.branches[0] if len(self.branches) == 1 else "model"
        self.kind = kind

    def shares(self) -> dict[str, np.ndarray]:
        """Policy to the share `(N,)` with which each row thinks; NaN where that is not known."""
        ones = np.ones(len(self.table))
        if self.kind == "router":
            known = self.thinking[~np.isnan(self.thinking)]
            return {
                "router": self.thinking,
                "thinking": ones,
                "non_thinking": 0 * ones,
                "random": (known.mean() if known.size else np.nan) * ones,
                "oracle": (self.right[:, 1] > self.right[:, 0]).astype(float),
            }
        if self.kind == "model":
            mode = self.answered[:, 1].astype(float)
            return {"model": np.where(self.answered.any(axis=1), mode, np.nan)}
        return {self.kind: float(self.kind == "thinking") * ones}

    def mean_of(self, values: np.ndarray, share: np.ndarray) -> np.ndarray:
        """Per row the value `(N, 2)` of the branch taken; of a coin the expectation. NaN where it is not known."""
        sides = [np.where(weight == 0, 0.0, weight * values[:, n]) for n, weight in enumerate((1 - share, share))]
        return sides[0] + sides[1]

    def right_of(self, share: np.ndarray) -> np.ndarray:
        """Per row whether the answer of the branch taken is right; it is not where nobody knows the branch."""
        return np.nan_to_num(self.mean_of(self.right, share))


def _cells(rows: Rows, others: dict[str, Rows], seed: int, draws: int) -> dict:
    shares: dict[tuple[str, Rows | None], np.ndarray] = {(name, None): share for name, share in rows.shares().items()}
    for name, other in others.items():
        shares |= {(name, other): next(iter(other.shares().values()))}
    right = {name: (other or rows).right_of(share) for (name, other), share in shares.items()}
    drawn = {}
    for other in [None, *others.values()]:
        columns = {name: right[name] for name, owner in shares if owner is other}
        drawn |= bootstrap_shares(columns, _questions((other or rows).table), seed=seed, draws=draws) if columns else {}
    policies: dict[str, dict] = {}
    for (name, other), share in shares.items():
        source = other or rows
        tokens = source.mean_of(source.tokens, share)
        policies[name] = {
            "accuracy": float(right[name].mean()),
            "interval": interval(drawn[name]),
            "thinking_ratio": _mean(share),
            "tokens": _mean(tokens),
            "tokens_p95": None if np.isnan(tokens).all() or name == "random" else float(np.nanpercentile(tokens, 95)),
            "seconds": _mean(source.mean_of(source.seconds, share)),
        }
    for name in policies.keys() - {"router"} if "router" in policies else ():
        policies[name] |= {
            "difference": policies["router"]["accuracy"] - policies[name]["accuracy"],
            "difference_interval": interval(drawn["router"] - drawn[name]),
        }
    cells = {
        "n": len(rows.table),
        "failed": int(rows.table["error"].notna().sum()),
        "policies": policies,
        "format": {
            branch: format_validity(_texts(rows, branch), branch == "thinking")
            for branch in MODES
            if branch in rows.branches
        },
        "leakage": leakage(_texts(rows, "non_thinking"), rows.tokens[rows.answered[:, 0], 0]),
    }
    return cells | (_router(rows, policies) if rows.kind == "router" else {})


def _router(rows: Rows, policies: dict) -> dict:
    answered = rows.answered.all(axis=1) & ~np.isnan(rows.thinking)
    right, tokens, probability = rows.right[answered], rows.tokens[answered], rows.probability[answered]
    found: dict = {"hacc": None, "apgr": None, "cpt50": None, "cpt80": None, "nauc": None, "ece": None}
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
    known = ~np.isnan(rows.thinking)
    right, tokens, probability = rows.right[known], rows.tokens[known], rows.probability[known]
    accuracy = call_curve(right, probability)
    total, lengths = (
        call_curve(values.astype(float), probability) for values in (np.nan_to_num(tokens), ~np.isnan(tokens))
    )
    cost = np.divide(total, lengths, out=np.full(len(total), np.nan), where=lengths > 1e-12)  # of answers there are
    values, counts = np.unique(probability, return_counts=True)
    at_least = np.cumsum(counts[::-1])[::-1]  # how many think at the threshold `values[i]`
    points = [(float(value), int(count)) for value, count in zip(values, at_least, strict=True)]
    if values[-1] < 1:
        points.append((1.0, 0))
    points = [points[place] for place in np.unique(np.linspace(0, len(points) - 1, CURVE_POINTS).round().astype(int))]
    scale = known.mean()  # rows that the router could not read are wrong
    return [
        {
            "threshold": value,
            "accuracy": float(accuracy[count] * scale),
            "tokens": float(cost[count]),
            "thinking_ratio": count / len(probability),
        }
        for value, count in points
        if not np.isnan(cost[count])  # else not one answer has a length
    ]


def _subject(rows: Rows) -> dict:
    shares = rows.shares()
    accuracy = {name: float(rows.right_of(share).mean()) for name, share in shares.items()}
    own = next((shares[name] for name in ("router", "model") if name in shares), np.array([np.nan]))
    return {"n": len(rows.table), "accuracy": accuracy, "thinking_ratio": _mean(own)}


def _baseline(name: str, table, ours):
    """The rows of a dense model on our questions."""
    if name in OWN:
        raise ValueError(f"`baselines` has a model called {name!r}, which is the name of a policy. Call it otherwise.")
    if table["thinking_probability"].notna().any():
        raise ValueError(
            f"`baselines` has {name!r}, which holds a router's probabilities. Baselines are dense models; report on a "
            "two-branch model by itself."
        )
    wanted, found = (set(_questions(part)) for part in (ours, table))
    if missing := sorted(wanted - found):
        raise ValueError(
            f"`baselines` has {name!r}, which has no answer to {len(missing):,} of {len(wanted):,} questions, (task, "
            f"id) {missing[0]} for one. Evaluate it on the same questions."
        )
    keep = [key in wanted for key in _questions(table)]
    return table[keep]


def _questions(table) -> list[tuple[str, str]]:
    return list(zip(table["task"], table["id"], strict=True))


def _texts(rows: Rows, branch: str) -> list[str]:
    return [text for text in rows.table[f"text_{branch}"] if isinstance(text, str)]


def _mean(values: Iterable[float]) -> float | None:
    values = np.asarray(values, dtype=float)
    return None if np.isnan(values).all() else float(np.nanmean(values))
