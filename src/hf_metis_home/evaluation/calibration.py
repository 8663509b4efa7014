"""
A threshold for a target, chosen on some questions of a table of outcomes and checked on the others.

`docs/calibration.md` explains what is guaranteed, and under which conditions.
"""

import numpy as np
from datasets import Dataset

from .._extras import require_extra
from ..modeling.router_metis_home import is_thinking
from .intervals import bootstrap_shares, interval
from .metrics import Rows
from .routing_metrics import candidates


require_extra("eval", "scipy")

from scipy.stats import beta, binomtest  # noqa: E402


STEPS = 100  # at most, thresholds that are tested one after another


def calibrate_threshold(
    outcomes: Dataset,
    *,
    thinking_ratio: float | None = None,
    token_budget: float | None = None,
    max_accuracy_drop: float | None = None,
    confidence: float = 0.95,
    validation_fraction: float = 0.5,
    seed: int = 0,
) -> dict:
    """
    Find a threshold for one target.

    The questions are split in two. Thresholds are proposed on the first part and evaluated on the second, which is held
    out. Only the first sample of a question counts; a branch without an answer is wrong; questions that the router was
    not asked about are left out.

    Args:
        outcomes ([`~datasets.Dataset`]):
            As [`~evaluation.outcomes.collect_outcomes`] returns them, of a two-branch model.
        thinking_ratio (`float`, *optional*):
            Target, in [0, 1]: think about at most this share of the questions.
        token_budget (`float`, *optional*):
            Target: maximum mean tokens per question.
        max_accuracy_drop (`float`, *optional*):
            Target, in (0, 1): maximum accuracy drop compared with always thinking; 0.01 is one point. The result is the
            highest threshold for which the held-out questions guarantee this.
        confidence (`float`, *optional*, defaults to 0.95):
            Confidence of the statement about the held-out questions.
        validation_fraction (`float`, *optional*, defaults to 0.5):
            Share of the questions that are held out.
        seed (`int`, *optional*, defaults to 0):
            Seed of the split.

    Returns:
        `dict`, for JSON: `target`, `value`, `threshold`, `confidence`, `statement` (a sentence), `questions` (how many
        `chosen_on`, `held_out`, `left_out`) and `held_out`: `thinking_ratio`, `tokens`, `accuracy`,
        `accuracy_thinking`, `accuracy_drop`, and the `interval` of a ratio or budget.

    Raises:
        ValueError: not exactly one target, a number out of range, outcomes without both branches and a router, fewer
            than two questions in a part, a target that no threshold meets.

    Example:

    ```python
    >>> from hf_metis_home.evaluation.calibration import calibrate_threshold
    >>> from hf_metis_home.evaluation.outcomes import read_outcomes

    >>> found = calibrate_threshold(read_outcomes("outcomes.parquet"), max_accuracy_drop=0.05)
    >>> found["threshold"], found["statement"]
    ```
    """
    given = {"thinking_ratio": thinking_ratio, "token_budget": token_budget, "max_accuracy_drop": max_accuracy_drop}
    target, value = check_target(given, confidence, validation_fraction)
    probability, right, tokens, left_out = _questions(outcomes)
    order = np.random.default_rng(seed).permutation(len(probability))
    count = round(validation_fraction * len(order))
    if min(count, len(order) - count) < 2:
        raise ValueError(
            f"`outcomes` has {len(order)} questions with a router's probability, of which `validation_fraction` "
            f"{validation_fraction} holds out {count}; each part needs at least 2. Evaluate more questions."
        )
    held_out, chosen_on = order[:count], order[count:]
    thresholds = candidates(probability[chosen_on])
    if target == "max_accuracy_drop":
        steps = thresholds[np.unique(np.linspace(0, len(thresholds) - 1, STEPS).round().astype(int))]
        threshold = certify(steps, probability[held_out], right[held_out], value, confidence)
    else:
        values = np.array([[0.0, 1.0]] * len(probability)) if target == "thinking_ratio" else tokens
        threshold = _lowest(thresholds, probability[chosen_on], values[chosen_on], value, target)
    figures = _figures(threshold, probability[held_out], right[held_out], tokens[held_out])
    if target == "token_budget":
        drawn = bootstrap_shares({"tokens": _taken(threshold, probability, tokens)[held_out]}, range(count), seed=seed)
        figures["interval"] = interval(drawn["tokens"], confidence)
    elif target == "thinking_ratio":
        ends = binomtest(round(count * figures["thinking_ratio"]), count).proportion_ci(confidence)
        figures["interval"] = [float(end) for end in ends]
    return {
        "target": target,
        "value": value,
        "threshold": threshold,
        "confidence": confidence,
        "statement": _statement(target, value, threshold, confidence, count, figures),
        "questions": {"chosen_on": len(chosen_on), "held_out": count, "left_out": left_out},
        "held_out": figures,
        "validation_fraction": validation_fraction,
        "seed": seed,
    }


def check_target(given: dict[str, float | None], confidence: float, validation_fraction: float) -> tuple[str, float]:
    """The one target and its value. The error names every invalid argument."""
    found = {name: value for name, value in given.items() if value is not None}
    valid = {
        "thinking_ratio": ("in [0, 1]", lambda value: 0 <= value <= 1),
        "token_budget": ("above 0", lambda value: value > 0),
        "max_accuracy_drop": ("between 0 and 1; 0.01 is one point", lambda value: 0 < value < 1),
        "confidence": ("between 0 and 1", lambda value: 0 < value < 1),
        "validation_fraction": ("between 0 and 1", lambda value: 0 < value < 1),
    }
    options = found | {"confidence": confidence, "validation_fraction": validation_fraction}
    bad = {name: value for name, value in options.items() if not valid[name][1](value)}
    errors = [f"`{name}` is {value!r}, but must be {valid[name][0]}." for name, value in bad.items()]
    if len(found) != 1:
        errors.append(f"Exactly one of {', '.join(f'`{name}`' for name in given)} is needed, not {len(found)}.")
    if errors:
        raise ValueError("\n".join(errors))
    return next(iter(found.items()))


def certify(
    thresholds: np.ndarray, probability: np.ndarray, right: np.ndarray, max_drop: float, confidence: float
) -> float:
    """
    The highest threshold such that it and all lower ones pass a test that the accuracy drop is at most `max_drop`.

    Learn-then-Test with fixed-sequence testing (Angelopoulos et al., arXiv 2110.01052): thresholds are tested from
    below until the first failure, so all tests share one level. A threshold above the true limit is then returned with
    probability at most `1 - confidence`, for any distribution and any number of questions, if the thresholds were fixed
    without these questions. The first, 0, needs no test: always thinking drops nothing.

    Args:
        thresholds (`np.ndarray` of shape `(K,)`):
            Rising, from 0.
        probability (`np.ndarray` of shape `(N,)`):
            The router's.
        right (`np.ndarray` of shape `(N, 2)`):
            Whether each branch is right, column 1 thinking.
        max_drop, confidence (`float`):
            What to promise.
    """
    order = np.argsort(probability, kind="stable")
    direct = [int((~is_thinking(probability, threshold)).sum()) for threshold in thresholds]
    change = right[order, 1].astype(int) - right[order, 0].astype(int)
    lost, won = (np.append(0, np.cumsum(change == sign))[direct] for sign in (1, -1))
    passed = drop_bound(lost, won, len(probability), confidence) <= max_drop
    passed |= thresholds <= 0
    return float(thresholds[np.argmin(passed) - 1 if not passed.all() else -1])


def drop_bound(lost, won, questions: int, confidence: float):
    """
    Upper bound of `P(lost) - P(won)`, from counts (arrays) among `questions`: a question is lost if only thinking would
    have been right, won if only the direct answer is. The bound is the upper one of the first (Clopper and Pearson
    1934) minus the lower one of the second, each at half the level, so it is valid for any sample size and dependence.
    """
    tail = (1 - confidence) / 2  # `binomtest` takes no arrays
    upper = np.where(lost == questions, 1.0, beta.ppf(1 - tail, lost + 1, np.maximum(questions - lost, 1)))
    return upper - np.where(won == 0, 0.0, beta.ppf(tail, np.maximum(won, 1), questions - won + 1))


def _questions(outcomes: Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Probability `[N]`, correctness `[N, 2]`, tokens `[N, 2]` (column 1 thinking), and the number left out."""
    table = outcomes.to_pandas().sort_values(["task", "id", "sample"], kind="stable").drop_duplicates(["task", "id"])
    rows = Rows(table, threshold=0.0)
    asked = ~np.isnan(rows.thinking)
    if not asked.any() or len(rows.modes) < 2:
        raise ValueError(
            "`outcomes` has no router's probability, or no answers of one of the branches, so there is no threshold to "
            "choose. Use outcomes of a two-branch model with both branches."
        )
    return rows.probability[asked], rows.right[asked] > 0, rows.tokens[asked], int((~asked).sum())


def _taken(threshold: float, probability: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.where(is_thinking(probability, threshold), values[:, 1], values[:, 0])


def _lowest(thresholds, probability, values, limit: float, target: str) -> float:
    """The lowest threshold with a mean within the limit."""
    means = [float(np.nanmean(_taken(threshold, probability, values))) for threshold in thresholds]
    fits = [threshold for threshold, mean in zip(thresholds, means, strict=True) if mean <= limit + 1e-12]
    if not fits:
        raise ValueError(
            f"`{target}` is {limit:g}, but on the {len(probability)} questions that the threshold is chosen on, every "
            f"threshold needs at least {min(means):.4g}. Raise it."
        )
    return float(fits[0])


def _figures(threshold: float, probability: np.ndarray, right: np.ndarray, tokens: np.ndarray) -> dict:
    taken = _taken(threshold, probability, tokens)
    accuracy, thinking = float(_taken(threshold, probability, right).mean()), float(right[:, 1].mean())
    return {
        "thinking_ratio": float(is_thinking(probability, threshold).mean()),
        "tokens": None if np.isnan(taken).all() else float(np.nanmean(taken)),
        "accuracy": accuracy,
        "accuracy_thinking": thinking,
        "accuracy_drop": thinking - accuracy,
    }


def _statement(target: str, value: float, threshold: float, confidence: float, n: int, figures: dict) -> str:
    sure = f"{100 * confidence:g}%"
    if target == "max_accuracy_drop":
        if threshold == 0:
            return (
                f"From {n:,} held-out questions, no threshold above 0 can be guaranteed with {sure} confidence to cost "
                f"at most {100 * value:g} points of accuracy, so the model always thinks, which costs none."
            )
        return (
            f"With {sure} confidence the accuracy is at most {100 * value:g} points below always thinking; "
            f"on the {n:,} held-out questions it was {100 * figures['accuracy_drop']:.1f} points below."
        )
    name, places = ("thinking ratio", ".3f") if target == "thinking_ratio" else ("mean number of tokens", ".1f")
    if figures["interval"] is None:
        return f"The {name} is unknown: none of the {n:,} held-out questions has one."
    key, (low, high) = "thinking_ratio" if target == "thinking_ratio" else "tokens", figures["interval"]
    return (
        f"On the {n:,} held-out questions the {name} was {figures[key]:{places}}; with {sure} confidence it "
        f"is between {low:{places}} and {high:{places}}."
    )
