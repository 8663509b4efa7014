"""
The plots of all reports: one matplotlib figure each, saved as PNG next to its numbers as CSV, shown in pages as SVG.
"""

import base64
import io
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pandas import DataFrame

from .._extras import require_extra
from ..evaluation.policies import own_policy, policies_of
from .page import PALETTE, interval_of, known


require_extra("eval", "matplotlib")

import matplotlib  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402


# Shape to matplotlib's marker, and to its character in text.
MARKERS = {
    "diamond": ("D", "◇"), "down": ("v", "▽"), "square": ("s", "□"), "cross": ("x", "✕"), "up": ("^", "△"),
    "plus": ("+", "+"), "circle": ("o", "○"),
}  # fmt: skip
COLORS = {name: light for name, (light, _) in PALETTE.items()}
STYLE = {
    "font.size": 9.5, "text.parse_math": False, "text.color": COLORS["ink"], "axes.labelcolor": COLORS["soft"],
    "axes.edgecolor": COLORS["soft"], "xtick.color": COLORS["soft"], "ytick.color": COLORS["soft"],
    "grid.color": COLORS["line"], "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False,
    "svg.fonttype": "none", "svg.hashsalt": "hf_metis_home",
}  # fmt: skip
DPI = 150
CURVE_POINTS = 120
LABEL_GAP = 0.066  # between names, as a share of the plot's height


@contextmanager
def _style() -> Iterator[None]:
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # PNG only: names in other scripts
        yield


@dataclass(frozen=True)
class Mark:
    """A point of [`accuracy_figure`]: name, mean tokens, accuracy and its interval in [0, 1], and look."""

    title: str
    tokens: float
    accuracy: float
    interval: tuple[float, float] | None
    shape: str
    color: str


@_style()
def write_plots(metrics: dict, folder: str | Path) -> dict[str, Figure]:
    """
    Write `pareto`, `thinking_ratio` and `reliability`, each as `.png` and `.csv`.

    Args:
        metrics (`dict`):
            What [`~evaluation.metrics.evaluate_outcomes`] returns.
        folder (`str` or `Path`):
            Where the files go; created if needed. Plots without data, such as a dense model's reliability, are skipped.

    Returns:
        `dict[str, Figure]`: name to figure.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tables = {
        "pareto": (pareto_rows(metrics), lambda rows: pareto_figure(metrics)),
        "thinking_ratio": (thinking_ratio_rows(metrics), thinking_ratio_figure),
        "reliability": (reliability_rows(metrics), reliability_figure),
    }
    figures = {}
    for name, (rows, draw) in tables.items():
        if not rows:
            continue
        DataFrame(rows).to_csv(folder / f"{name}.csv", index=False)
        figures[name] = draw(rows)
        figures[name].savefig(folder / f"{name}.png", dpi=DPI, metadata={"Software": None})
    return figures


@_style()
def svg_text(figure: Figure, transparent: bool = True) -> str:
    """A figure as SVG, the same text each time. Its colors follow the light or dark setting of the screen."""
    buffer = io.StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=transparent, metadata=metadata)
    text = buffer.getvalue()
    for name, light in COLORS.items():
        text = text.replace(light, f"var(--{name})")
    light, dark = (";".join(f"--{name}:{pair[i]}" for name, pair in PALETTE.items()) for i in (0, 1))
    style = f"svg{{{light}}}@media(prefers-color-scheme:dark){{svg{{{dark}}}}}"
    style += "text{font-family:system-ui,sans-serif!important}@media(max-width:400px){text{font-size:11px!important}}"
    return text.replace("<defs>", f"<defs><style>{style}</style>", 1)


def svg_uri(figure: Figure) -> str:
    """[`svg_text`] as the `src` of an image."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg_text(figure).encode()).decode("ascii")


def pareto_rows(metrics: dict) -> list[dict]:
    """Accuracy against tokens: one row per task and policy, and per task and router threshold (`curve`)."""
    rows = []
    for task, cells in metrics["tasks"].items():
        for policy, cell in cells["policies"].items():
            if _drawable(cell):
                low, high = interval_of(cell) or (None, None)
                facts = {name: cell.get(name) for name in ("accuracy", "tokens", "thinking_ratio")}
                rows.append({"task": task, "policy": policy, "threshold": None, **facts, "low": low, "high": high})
        rows += [{"task": task, "policy": "curve", **point} for point in metrics["curve"].get(task) or []]
    return rows


def _drawable(cell: dict | None) -> bool:
    return bool(cell) and known(cell["accuracy"]) and known(cell["tokens"])


def thinking_ratio_rows(metrics: dict) -> list[dict]:
    """One row per task, and per task and subject: how often the router thinks, and how often an oracle would."""
    rows = []
    for task, cells in metrics["tasks"].items():
        policies = cells["policies"]
        own = policies.get(own_policy(policies)) or {}
        if not known(own.get("thinking_ratio")):
            continue
        oracle = (policies.get("oracle") or {}).get("thinking_ratio")
        ratio = own["thinking_ratio"]
        rows.append({"task": task, "subject": None, "n": cells["n"], "thinking_ratio": ratio, "oracle": oracle})
        subjects = sorted(metrics["subjects"].get(task, {}).items(), key=lambda item: -item[1]["n"])
        rows += [
            {"task": task, "subject": subject, "n": part["n"], "thinking_ratio": part["thinking_ratio"], "oracle": None}
            for subject, part in subjects
        ]
    return rows


def reliability_rows(metrics: dict) -> list[dict]:
    """One row per bin of the router's probability that has questions."""
    return [part for part in metrics["reliability"].get("all") or [] if part["n"]]


def pareto_figure(metrics: dict, task: str = "all") -> Figure | None:
    """Accuracy against tokens of a task's policies; None if no policy has both."""
    cells = {policy: cell for policy, cell in metrics["tasks"][task]["policies"].items() if _drawable(cell)}
    marks = [
        Mark(policy.title, cell["tokens"], cell["accuracy"], interval_of(cell), policy.shape, policy.color)
        for policy in policies_of(metrics)
        if (cell := cells.get(policy.name))
    ]
    if not marks:
        return None
    curve = sorted((point["tokens"], point["accuracy"]) for point in metrics["curve"].get(task) or [])
    curve = curve[:: -(-len(curve) // CURVE_POINTS)] + curve[-1:] if curve else []
    ends = [cells[name] for name in ("non_thinking", "thinking") if name in cells]
    chance = [(cell["tokens"], cell["accuracy"]) for cell in ends] if len(ends) == 2 else []
    heights = [height for mark in marks for height in mark.interval or [mark.accuracy]] + [y for _, y in curve]
    return accuracy_figure(marks, curve, chance, span(heights))


@_style()
def accuracy_figure(
    marks: list[Mark],
    curve: Sequence[tuple[float, float]] = (),
    chance: Sequence[tuple[float, float]] = (),
    heights: tuple[float, float] = (0.0, 1.0),
) -> Figure:
    """
    Accuracy against mean generated tokens, with names in a column next to the plot.

    Args:
        marks (`list[Mark]`):
            The points.
        curve, chance (`Sequence[tuple[float, float]]`, *optional*):
            Tokens and accuracy along the router's line and along the dashed one.
        heights (`tuple[float, float]`, *optional*, defaults to `(0.0, 1.0)`):
            Ends of the accuracy axis.
    """
    figure, axes = _axes(5.8, 3.5, left=0.1, right=0.67, bottom=0.15, top=0.97)
    bottom, top = (100 * height for height in heights)
    axes.set(xlabel="mean generated tokens", ylabel="accuracy, %", ylim=(bottom, top))
    axes.set_xlim(0, 1.06 * max([mark.tokens for mark in marks], default=0) or 1)
    axes.locator_params("y", nbins=6, steps=[1, 2, 5, 10])
    axes.grid(axis="y")
    for points, look in (
        (chance, {"color": COLORS["gray"], "linestyle": (0, (4, 4)), "linewidth": 1}),
        (curve, {"color": COLORS["blue"], "linewidth": 1.4, "alpha": 0.6}),
    ):
        axes.plot([x for x, _ in points], [100 * y for _, y in points], **look)
    ordered = sorted(marks, key=lambda mark: (-mark.accuracy, mark.tokens))
    for mark, place in zip(
        ordered, _label_places([(100 * m.accuracy - bottom) / (top - bottom) for m in ordered]), strict=True
    ):
        color, (x, y) = COLORS[mark.color], (mark.tokens, 100 * mark.accuracy)
        ends = [100 * end for end in mark.interval or ()]
        axes.plot([x] * len(ends), ends, color=color, linewidth=1.2, alpha=0.75, clip_on=False)
        axes.plot(x, y, MARKERS[mark.shape][0], color=color, mfc="none", mew=1.8, markersize=8, clip_on=False, zorder=3)
        leader = {"arrowstyle": "-", "color": color, "alpha": 0.45, "linewidth": 0.9, "relpos": (0, 0.5), "shrinkB": 5}
        axes.annotate(
            _short(mark.title), (x, y), (1.05, place), textcoords="axes fraction", va="center", arrowprops=leader
        )
    return figure


@_style()
def thinking_ratio_figure(rows: list[dict]) -> Figure:
    """A bar per task, and a line where an oracle would be."""
    tasks = [row for row in rows if row["subject"] is None]
    height = 0.75 + 0.3 * len(tasks)
    figure, axes = _axes(6.4, height, left=0.3, right=0.92, bottom=0.5 / height, top=1 - 0.1 / height)
    axes.barh(range(len(tasks)), [100 * row["thinking_ratio"] for row in tasks], 0.6, color=COLORS["red"])
    for place, row in enumerate(tasks):
        axes.text(110, place, f"{100 * row['thinking_ratio']:.1f}", ha="right", va="center")
    oracle = [(100 * row["oracle"], place) for place, row in enumerate(tasks) if known(row["oracle"])]
    axes.plot([x for x, _ in oracle], [y for _, y in oracle], "|", color=COLORS["ink"], ms=13, mew=1.6, clip_on=False)
    axes.set_yticks(range(len(tasks)), [_short(row["task"]) for row in tasks])
    axes.tick_params(axis="y", length=0, labelcolor=COLORS["ink"])
    axes.set(xlabel="thinking ratio, %", xlim=(0, 100), ylim=(len(tasks) - 0.5, -0.5))
    return figure


@_style()
def reliability_figure(rows: list[dict]) -> Figure:
    """The share of questions where thinking pays against the router's probability; larger dots for more questions."""
    figure, axes = _axes(4.6, 4.2, left=0.13, right=0.96, bottom=0.12, top=0.96)
    axes.plot([0, 100], [0, 100], linestyle=(0, (4, 4)), color=COLORS["gray"], linewidth=1)
    most = max(row["n"] for row in rows)
    x, y = [100 * row["probability"] for row in rows], [100 * row["thinking_pays"] for row in rows]
    sizes = [20 + 180 * row["n"] / most for row in rows]
    axes.scatter(x, y, sizes, color=COLORS["blue"], alpha=0.7, clip_on=False, linewidths=0, zorder=3)
    axes.set(xlabel="router's probability of thinking, %", ylabel="questions where thinking pays, %")
    axes.set(xlim=(0, 100), ylim=(0, 100))
    axes.grid(axis="y")
    return figure


def span(shares: list[float]) -> tuple[float, float]:
    """Ends of an axis, in tenths, that include all shares and are at least two tenths apart."""
    start, end = math.floor(10 * min(shares) + 1e-9), math.ceil(10 * max(shares) - 1e-9)
    while end - start < 2:
        start, end = max(start - 1, 0), min(end + 1, 10)
    return start / 10, end / 10


def _label_places(heights: list[float]) -> list[float]:
    """Heights of names in one column, none closer than `LABEL_GAP` to the next. `heights` fall."""
    places, above, below = [], 1 + LABEL_GAP, 0.0
    for height in heights:
        above = min(height, above - LABEL_GAP)
        places.append(above)
    # Then up again where the column would leave the plot.
    for number in reversed(range(len(places))):
        places[number] = max(places[number], below)
        below = places[number] + LABEL_GAP
    return places


def _axes(width: float, height: float, **margins: float):
    figure = Figure(figsize=(width, height))
    figure.subplots_adjust(**margins)
    return figure, figure.add_subplot()


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 20 else text[:19] + "…"
