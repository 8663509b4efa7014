"""Names and looks of what stands beside each other in a report: ways to choose an answer's mode, and dense models."""

from dataclasses import dataclass


POOLED = "all"  # what all tasks together are called


@dataclass(frozen=True)
class Policy:
    """
    A way to choose the mode of an answer, or a model beside ours.

    Args:
        name (`str`):
            Its key in the metrics.
        key (`str`):
            Its class in the page's style sheet.
        title, meaning (`str`):
            What a reader sees.
        shape, color (`str`):
            How it is drawn; names of `plot.html.jinja` and of the page's colours.
    """

    name: str
    key: str
    title: str
    shape: str
    color: str
    meaning: str


OURS = (
    Policy("router", "router", "Router", "diamond", "blue", "the router picks a branch for each question"),
    Policy("model", "model", "Model", "diamond", "blue", "answers as it will, with a thought or without"),
    Policy("thinking", "always", "All thinking", "down", "red", "every question is thought over"),
    Policy("non_thinking", "never", "All non-thinking", "square", "green", "every question is answered directly"),
    Policy("random", "random", "Random", "cross", "gray", "thinks as often as the router, at random"),
    Policy("oracle", "oracle", "Oracle", "up", "orange", "thinks where only that is right: a bound, not a model"),
)
DENSE_SHAPES = ("plus", "circle")
DENSE_COLORS = ("purple", "gray", "orange", "green")


def policies_of(metrics: dict) -> list[Policy]:
    """The policies that any task of the metrics has, ours first; dense models differ in shape and colour."""
    names = dict.fromkeys(name for cells in metrics["tasks"].values() for name in cells["policies"])
    ours = [policy for policy in OURS if policy.name in names]
    dense = []
    for number, name in enumerate(name for name in names if name not in {policy.name for policy in OURS}):
        shape, color = DENSE_SHAPES[number % 2], DENSE_COLORS[number % 4]
        dense.append(Policy(name, f"dense-{number}", name, shape, color, "a dense model"))
    return ours + dense


def own_policy(policies: dict) -> str | None:
    """The policy that a user of the model gets without asking for a mode."""
    return next(
        (name for name in ("router", "model", "thinking", "non_thinking") if policies.get(name) is not None), None
    )
