"""
How well a router orders questions, on rows that both branches answered, and the thresholds between them.

All functions take arrays with one entry per row: `right` and `tokens` of shape `(N, 2)`, column 1 the thinking branch,
and the router's `probability` `(N,)`.
"""

import numpy as np


COST_STEPS = 10  # RouteLLM's
BINS = 10


def candidates(probability: np.ndarray) -> np.ndarray:
    """
    One threshold for every way to divide these questions, rising from 0 (always thinking): halfway between neighbouring
    probabilities, so that rounding elsewhere moves no question.
    """
    low = np.unique(probability)
    high = np.append(low[1:], 1.0)
    low, high = low[high > low], high[high > low]
    middle = ((low + high) / 2).astype(np.float32).astype(float)  # the model compares in fp32
    return np.append(0.0, np.where((low < middle) & (middle <= high), middle, high))


def hacc(right: np.ndarray, tokens: np.ndarray, thinking: np.ndarray) -> float:
    """
    Share of rows that go to the branch that is right, or to the cheaper one where both or neither are (HAcc: Large
    Hybrid-Reasoning Models, arXiv 2505.14631). If both answers have the same length, either choice counts.
    """
    chosen = thinking.astype(int)[:, None]
    right_here = np.take_along_axis(right, chosen, 1)[:, 0]
    right_there = np.take_along_axis(right, 1 - chosen, 1)[:, 0]
    cheap = np.take_along_axis(tokens, chosen, 1)[:, 0] <= np.take_along_axis(tokens, 1 - chosen, 1)[:, 0]
    return float(np.where(right_here != right_there, right_here, cheap).mean())


def call_curve(values: np.ndarray, score: np.ndarray) -> np.ndarray:
    """
    The mean of `values` `(N, 2)` when the k rows with the highest `score` use column 1 and the others column 0, for k
    from 0 to N: `(N + 1,)`. For rows with equal scores it is the mean over all orders.
    """
    order = np.argsort(-score, kind="stable")
    gain = (values[:, 1] - values[:, 0])[order]
    _, group = np.unique(-score[order], return_inverse=True)
    gain = (np.bincount(group, gain) / np.bincount(group))[group]
    return (values[:, 0].sum() + np.concatenate([[0.0], np.cumsum(gain)])) / len(values)


def call_performance(right: np.ndarray, probability: np.ndarray) -> dict[str, float | None]:
    """
    APGR and CPT as RouteLLM defines them (arXiv 2406.18665, section 3). The strong side is the branch with the higher
    accuracy, the weak side the other one. At a share c of calls of the strong side, its performance gap recovered is
    PGR(c) = (accuracy(c) - weak) / (strong - weak).

    Returns:
        `dict`: `apgr`, the mean of PGR at c = 10 %, 20 %, ..., 100 %; `cpt50` and `cpt80`, the smallest share of calls
        at which PGR reaches 0.5 and 0.8. All None if both branches have the same accuracy.
    """
    accuracy = right.mean(axis=0)
    if accuracy[0] == accuracy[1]:
        return {"apgr": None, "cpt50": None, "cpt80": None}
    thinking_is_strong = accuracy[1] > accuracy[0]
    sides = right if thinking_is_strong else right[:, ::-1]
    curve = call_curve(sides, probability if thinking_is_strong else -probability)
    recovered = (curve - curve[0]) / (curve[-1] - curve[0])
    calls = np.arange(len(curve)) / (len(curve) - 1)
    at = np.interp(np.arange(1, COST_STEPS + 1) / COST_STEPS, calls, recovered)
    first = {level: float(calls[np.argmax(recovered >= level - 1e-9)]) for level in (0.5, 0.8)}
    return {"apgr": float(at.mean()), "cpt50": first[0.5], "cpt80": first[0.8]}


def nauc(right: np.ndarray, tokens: np.ndarray, probability: np.ndarray) -> float | None:
    """
    Area under accuracy against mean tokens, from never to always thinking, divided by the range of tokens: the mean
    accuracy over all token budgets in between. None if both ends cost the same.
    """
    cost, accuracy = call_curve(tokens, probability), call_curve(right, probability)
    width = cost[-1] - cost[0]
    return None if width == 0 else float(((accuracy[1:] + accuracy[:-1]) / 2 * np.diff(cost)).sum() / width)


def reliability(right: np.ndarray, probability: np.ndarray) -> list[dict]:
    """
    Ten bins of the probability, over the rows where exactly one branch is right.

    Returns:
        `list[dict]`: `low`, `high`, `n`, the mean `probability`, and `thinking_pays`, the share of rows where the
        thinking branch is right; the last two are None if `n` is 0.
    """
    stake = right[:, 0] != right[:, 1]
    probability, pays = probability[stake], right[stake, 1]
    place = np.minimum((probability * BINS).astype(int), BINS - 1)
    rows = []
    for number in range(BINS):
        here = place == number
        ends = {"low": number / BINS, "high": (number + 1) / BINS, "n": int(here.sum())}
        means = {
            name: float(values[here].mean()) if here.any() else None
            for name, values in (("probability", probability), ("thinking_pays", pays))
        }
        rows.append(ends | means)
    return rows


def calibration_error(bins: list[dict]) -> float | None:
    """Expected calibration error (Guo et al. 2017) of the bins of [`reliability`]; None if all are empty."""
    total = sum(row["n"] for row in bins)
    if not total:
        return None
    return sum(row["n"] * abs(row["probability"] - row["thinking_pays"]) for row in bins if row["n"]) / total
