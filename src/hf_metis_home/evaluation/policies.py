"""Policies: ways to choose the branch of each question, and how a report names and draws them."""

from dataclasses import dataclass

import numpy as np


POOLED = "all"  # the name for all tasks together


@dataclass(frozen=True)
class Policy:
    """
    A way to choose the branch of an answer, or another model in the same comparison.

    Args:
        name (`str`):
            Its key in the metrics.
        title, meaning (`str`):
            What a reader sees.
        shape, color (`str`):
            How it is drawn; names in `MARKERS` of `reports.figures` and in `PALETTE` of `reports.page`.
    """

    name: str
    title: str
    shape: str
    color: str
    meaning: str


OURS = (
    Policy("router", "Router", "diamond", "blue", "the router picks a branch for each question"),
    Policy("model", "Model", "diamond", "blue", "the model chooses by itself whether to think"),
    Policy("thinking", "All thinking", "down", "red", "thinks about every question"),
    Policy("non_thinking", "All non-thinking", "square", "green", "answers every question directly"),
    Policy("random", "Random", "cross", "gray", "thinks as often as the router, at random"),
    Policy("oracle", "Oracle", "up", "orange", "thinks only where that is better: a bound, not a model"),
)
DENSE_SHAPES = ("plus", "circle")
DENSE_COLORS = ("purple", "gray", "orange", "green")


def policy_shares(thinking: np.ndarray, gain: np.ndarray) -> dict[str, np.ndarray]:
    """
    How often each policy thinks about each question.

    Args:
        thinking (`np.ndarray` of shape `(N,)`):
            What the router picks: 1 to think, 0 not to, NaN if unknown.
        gain (`np.ndarray` of shape `(N,)`):
            What thinking gains over not thinking. The oracle thinks where it gains something.

    Returns:
        `dict[str, np.ndarray]`: policy to shares `(N,)` in [0, 1].
    """
    known = thinking[~np.isnan(thinking)]
    return {
        "router": thinking,
        "thinking": np.ones(len(thinking)),
        "non_thinking": np.zeros(len(thinking)),
        "random": np.full(len(thinking), known.mean() if known.size else np.nan),
        "oracle": (gain > 0).astype(float),
    }


def expected(values: np.ndarray, share: np.ndarray) -> np.ndarray:
    """
    The value that a policy gets on each question.

    Args:
        values (`np.ndarray` of shape `(N, 2)`):
            Per branch, column 1 thinking; NaN if unknown.
        share (`np.ndarray` of shape `(N,)`):
            How often the policy thinks.

    Returns:
        `np.ndarray` of shape `(N,)`: the expectation; NaN where a branch that the policy uses has no value.
    """
    sides = [np.where(weight == 0, 0.0, weight * values[:, side]) for side, weight in enumerate((1 - share, share))]
    return sides[0] + sides[1]


def policies_of(metrics: dict) -> list[Policy]:
    """The policies that appear in the metrics, ours first; dense models differ in shape and colour."""
    names = dict.fromkeys(name for cells in metrics["tasks"].values() for name in cells["policies"])
    ours = [policy for policy in OURS if policy.name in names]
    dense = [name for name in names if name not in {policy.name for policy in OURS}]
    return ours + [
        Policy(name, name, DENSE_SHAPES[number % 2], DENSE_COLORS[number % 4], "a dense model")
        for number, name in enumerate(dense)
    ]


def own_policy(policies: dict) -> str | None:
    """The policy that a user of the model gets without choosing a mode."""
    own = ("router", "model", "thinking", "non_thinking")
    return next((name for name in own if policies.get(name) is not None), None)
