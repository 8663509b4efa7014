"""
A threshold for a target, chosen on some questions of a table of outcomes, and what others say about it.

`docs/calibration.md` says what is promised, and under which conditions.
"""

import numpy as np
from datasets import Dataset

from .._extras import require_extra
from ..modeling.router_metis_home import is_thinking
from .intervals import bootstrap_shares, interval


require_extra("eval", "scipy")

from scipy.stats import beta  # noqa: E402


TARGETS = ("thinking_ratio", "token_budget", "max_accuracy_drop")
STEPS = 100  # thresholds that are tested one after another, at the most


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

    The questions are split in two. Thresholds are proposed by the first part and judged on the second, which is held
    out. Of a question that was answered several times the first sample counts; a branch without an answer is wrong;
    questions that the router was not asked about are left out.

    Args:
        outcomes ([`~datasets.Dataset`]):
            As [`~evaluation.outcomes.collect_outcomes`] gives them, of a two-branch model.
        thinking_ratio (`float`, *optional*):
            Target, in [0, 1]: think about at most this share of the questions.
        token_budget (`float`, *optional*):
            Target: at most so many tokens per question in the mean.
        max_accuracy_drop (`float`, *optional*):
            Target, in (0, 1): be right at most so much less often than when always thinking. 0.01 is one point. The
            highest threshold is taken that the held-out questions let promise this.
        confidence (`float`, *optional*, defaults to 0.95):
            Of the statement about the held-out questions.
        validation_fraction (`float`, *optional*, defaults to 0.5):
            Share of the questions that are held out.
        seed (`int`, *optional*, defaults to 0):
            Of the split.

    Returns:
        `dict`, for JSON: `target`, `value`, `threshold`, `confidence`, `statement` (a sentence), `questions` (how many
        `chosen_on`, `held_out`, `left_out`) and `held_out`: `thinking_ratio`, `tokens`, `accuracy`,
        `accuracy_thinking`, `accuracy_drop`, and `interval`, of the target's own figure where it is a ratio or budget.

    Raises:
        ValueError: not exactly one target, a number out of range, outcomes without both branches and a router, fewer
            than two questions on a side, a target that no threshold meets.

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
            f"{validation_fraction} holds out {count}; each side needs at least 2. Evaluate more questions."
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
    if target != "max_accuracy_drop":
        figures["interval"] = _interval(target, threshold, probability[held_out], tokens[held_out], confidence, seed)
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
    """The one target and its value. An error that names every argument that cannot be used."""
    found = {name: value for name, value in given.items() if value is not None}
    errors = []
    if len(found) != 1:
        errors.append(f"Exactly one of {', '.join(f'`{name}`' for name in given)} is needed; {len(found)} were given.")
    if "thinking_ratio" in found and not 0 <= found["thinking_ratio"] <= 1:
        errors.append(f"`thinking_ratio` is {found['thinking_ratio']!r}, but is a share and must be in [0, 1].")
    if "token_budget" in found and not found["token_budget"] > 0:
        errors.append(f"`token_budget` is {found['token_budget']!r}, but must be above 0 tokens.")
    if "max_accuracy_drop" in found and not 0 < found["max_accuracy_drop"] < 1:
        errors.append(
            f"`max_accuracy_drop` is {found['max_accuracy_drop']!r}, but must be between 0 and 1; 0.01 is one point."
        )
    for name, value in (("confidence", confidence), ("validation_fraction", validation_fraction)):
        if not 0 < value < 1:
            errors.append(f"`{name}` is {value!r}, but must be between 0 and 1.")
    if errors:
        raise ValueError("\n".join(errors))
    return next(iter(found.items()))


def candidates(probability: np.ndarray) -> np.ndarray:
    """
    Every decision that a threshold can make on these questions, rising from 0 (always thinking): half-way between
    neighbouring probabilities, so that rounding elsewhere moves no question.
    """
    low = np.unique(probability)
    high = np.append(low[1:], 1.0)
    low, high = low[high > low], high[high > low]
    middle = ((low + high) / 2).astype(np.float32).astype(float)  # the model compares in fp32
    return np.append(0.0, np.where((low < middle) & (middle <= high), middle, high))


def certify(
    thresholds: np.ndarray, probability: np.ndarray, right: np.ndarray, max_drop: float, confidence: float
) -> float:
    """
    The highest of rising thresholds up to which each passes a test that the accuracy drop is at most `max_drop`.

    Learn-then-Test with fixed-sequence testing (Angelopoulos et al., arXiv 2110.01052): thresholds are tested from
    below and the first failure ends it, so that one level serves all. A threshold above the true limit is then returned
    with probability at most `1 - confidence`, for any distribution and any number of questions, if the thresholds were
    fixed without these questions. The first, 0, needs no test: always thinking drops nothing.

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
    below = np.searchsorted(probability[order], thresholds, side="left")  # how many do not think
    change = right[order, 1].astype(int) - right[order, 0].astype(int)
    lost, won = (np.append(0, np.cumsum(change == sign))[below] for sign in (1, -1))
    passed = drop_bound(lost, won, len(probability), confidence) <= max_drop
    passed |= thresholds <= 0
    return float(thresholds[np.argmin(passed) - 1 if not passed.all() else -1])


def drop_bound(lost, won, questions: int, confidence: float):
    """
    Upper bound of `P(lost) - P(won)`, from counts among `questions` of them: thinking alone was right but not asked,
    and the reverse. The upper bound of the one (Clopper and Pearson 1934) minus the lower bound of the other, each at
    half the level, so that it holds for any sample size and however the two depend on each other.
    """
    tail = (1 - confidence) / 2
    upper = np.where(lost == questions, 1.0, beta.ppf(1 - tail, lost + 1, np.maximum(questions - lost, 1)))
    return upper - np.where(won == 0, 0.0, beta.ppf(tail, np.maximum(won, 1), questions - won + 1))


def _questions(outcomes: Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Probability `[N]`, whether right `[N, 2]`, tokens `[N, 2]` (column 1 thinking), and the number left out."""
    columns = ["task", "id", "sample", "thinking_probability"]
    columns += [f"{what}_{mode}" for what in ("correct", "tokens") for mode in ("non_thinking", "thinking")]
    table = outcomes.select_columns(columns).to_pandas().sort_values("sample", kind="stable")
    table = table.drop_duplicates(["task", "id"]).sort_values(["task", "id"], kind="stable")
    values = table[columns[4:]].astype(float).to_numpy()
    asked = table["thinking_probability"].astype(float).to_numpy()
    kept = ~np.isnan(asked)
    if not kept.any() or np.isnan(values[:, :2]).all(axis=0).any():
        raise ValueError(
            "`outcomes` has no router's probability, or no answers of one of the branches, so there is no threshold to "
            "choose. Give the outcomes of a two-branch model with both branches."
        )
    return asked[kept], np.nan_to_num(values[kept, :2]) > 0, values[kept, 2:], int((~kept).sum())


def _taken(threshold: float, probability: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.where(is_thinking(probability, threshold), values[:, 1], values[:, 0])


def _lowest(thresholds, probability, values, limit: float, target: str) -> float:
    """The lowest threshold whose mean is within the limit."""
    means = [float(np.nanmean(_taken(threshold, probability, values))) for threshold in thresholds]
    fits = [threshold for threshold, mean in zip(thresholds, means, strict=True) if mean <= limit + 1e-12]
    if not fits:
        raise ValueError(
            f"`{target}` is {limit:g}, but at no threshold up to 1 is it less than {min(means):.4g} on the "
            f"{len(probability)} questions that it is chosen on. Give at least that."
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


def _interval(target, threshold, probability, tokens, confidence: float, seed: int) -> list[float] | None:
    n = len(probability)
    if target == "token_budget":
        drawn = bootstrap_shares({"tokens": _taken(threshold, probability, tokens)}, range(n), seed=seed)
        return interval(drawn["tokens"], confidence)
    thinking, tail = int(is_thinking(probability, threshold).sum()), (1 - confidence) / 2
    return [
        0.0 if thinking == 0 else float(beta.ppf(tail, thinking, n - thinking + 1)),
        1.0 if thinking == n else float(beta.ppf(1 - tail, thinking + 1, n - thinking)),
    ]


def _statement(target: str, value: float, threshold: float, confidence: float, n: int, figures: dict) -> str:
    sure = f"{100 * confidence:g}%"
    if target == "max_accuracy_drop":
        if threshold == 0:
            return (
                f"No threshold above 0 can be promised to cost at most {100 * value:g} points of accuracy with "
                f"{sure} confidence from {n:,} held-out questions, so the model always thinks, which costs "
                "none."
            )
        return (
            f"With {sure} confidence the accuracy is at most {100 * value:g} points below always thinking; "
            f"on the {n:,} held-out questions it was {100 * figures['accuracy_drop']:.1f} points below."
        )
    name, places = ("thinking ratio", ".3f") if target == "thinking_ratio" else ("mean number of tokens", ".1f")
    if figures["interval"] is None:
        return f"The {name} is not known: none of the {n:,} held-out questions has one."
    key, (low, high) = "thinking_ratio" if target == "thinking_ratio" else "tokens", figures["interval"]
    return (
        f"On the {n:,} held-out questions the {name} was {figures[key]:{places}}; with {sure} confidence it "
        f"is between {low:{places}} and {high:{places}}."
    )
