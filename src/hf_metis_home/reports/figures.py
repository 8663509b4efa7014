"""The report's plots as PNG files, each with the numbers that it shows as CSV."""

import csv
import warnings
from pathlib import Path

from .._extras import require_extra
from ..evaluation.policies import own_policy, policies_of
from .page import known


require_extra("eval", "matplotlib")

from matplotlib.figure import Figure  # noqa: E402


MARKERS = {"diamond": "D", "down": "v", "square": "s", "cross": "x", "up": "^", "plus": "P", "circle": "o"}
COLORS = {
    "blue": "#1f5fd0", "red": "#c8324f", "green": "#12855a", "gray": "#6b7583", "orange": "#c2620a",
    "purple": "#9a3fb0",
}  # fmt: skip
DPI = 150


def write_plots(metrics: dict, folder: str | Path) -> list[Path]:
    """
    Write `pareto`, `thinking_ratio` and `reliability`, each as `.png` and `.csv`.

    Args:
        metrics (`dict`):
            What [`~evaluation.metrics.evaluate_outcomes`] gives.
        folder (`str` or `Path`):
            Folder of the files, which is made. What the table cannot say, as a dense model's reliability, has no file.

    Returns:
        `list[Path]`: the files.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, rows, draw in (
        ("pareto", pareto_rows(metrics), _draw_pareto),
        ("thinking_ratio", thinking_ratio_rows(metrics), _draw_thinking_ratio),
        ("reliability", reliability_rows(metrics), _draw_reliability),
    ):
        if not rows:
            continue
        with open(folder / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        draw(figure, rows, metrics)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from")  # names in other scripts: a box each
            figure.savefig(folder / f"{name}.png", dpi=DPI, metadata={"Software": None})
        written += [folder / f"{name}.csv", folder / f"{name}.png"]
    return written


def pareto_rows(metrics: dict) -> list[dict]:
    """Accuracy against tokens: a row per task and policy, and per task and threshold of the router (`curve`)."""
    rows = []
    for task, cells in metrics["tasks"].items():
        for policy, cell in cells["policies"].items():
            if cell is not None and known(cell["accuracy"]) and known(cell["tokens"]):
                low, high = cell.get("interval") or (None, None)
                facts = {name: cell.get(name) for name in ("accuracy", "tokens", "thinking_ratio")}
                rows.append({"task": task, "policy": policy, "threshold": None, **facts, "low": low, "high": high})
        for point in (metrics.get("curve") or {}).get(task) or []:
            facts = {name: point[name] for name in ("threshold", "accuracy", "tokens", "thinking_ratio")}
            rows.append({"task": task, "policy": "curve", **facts, "low": None, "high": None})
    return rows


def thinking_ratio_rows(metrics: dict) -> list[dict]:
    """A row per task, and per task and subject: how often the router thinks, and how often an oracle would."""
    rows = []
    for task, cells in metrics["tasks"].items():
        policies = cells["policies"]
        own = policies.get(own_policy(policies)) or {}
        if not known(own.get("thinking_ratio")):
            continue
        oracle = (policies.get("oracle") or {}).get("thinking_ratio")
        ratios = {"thinking_ratio": own["thinking_ratio"], "oracle": oracle}
        rows.append({"task": task, "subject": None, "n": cells["n"], **ratios})
        for subject, part in ((metrics.get("subjects") or {}).get(task) or {}).items():
            ratios = {"thinking_ratio": part.get("thinking_ratio"), "oracle": None}
            rows.append({"task": task, "subject": subject, "n": part["n"], **ratios})
    return rows


def reliability_rows(metrics: dict) -> list[dict]:
    """A row per bin of the router's probability that has questions."""
    bins = (metrics.get("reliability") or {}).get("all") or []
    return [
        {name: part[name] for name in ("low", "high", "n", "probability", "thinking_pays")}
        for part in bins
        if part["n"]
    ]


def _draw_pareto(figure: Figure, rows: list[dict], metrics: dict) -> None:
    axes = figure.add_subplot()
    pooled = [row for row in rows if row["task"] == "all"]
    curve = sorted((row for row in pooled if row["policy"] == "curve"), key=lambda row: row["tokens"])
    if curve:
        x, y = [row["tokens"] for row in curve], [100 * row["accuracy"] for row in curve]
        axes.plot(x, y, color=COLORS["blue"], linewidth=1.2, alpha=0.6, label="Router, every threshold")
    for policy in policies_of(metrics):
        for row in pooled:
            if row["policy"] == policy.name:
                accuracy, error = row["accuracy"], None
                if known(row["low"]) and known(row["high"]):
                    error = [[100 * max(accuracy - row["low"], 0)], [100 * max(row["high"] - accuracy, 0)]]
                style = {"fmt": MARKERS[policy.shape], "color": COLORS[policy.color], "markersize": 7, "elinewidth": 1}
                axes.errorbar(row["tokens"], 100 * accuracy, error, label=_plain(policy.title), **style)
    axes.set(xlabel="mean generated tokens", ylabel="accuracy, %")
    axes.set_xlim(left=0)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8, frameon=False)


def _draw_thinking_ratio(figure: Figure, rows: list[dict], metrics: dict) -> None:
    tasks = [row for row in rows if row["subject"] is None]
    figure.set_size_inches(6.4, 1.2 + 0.3 * len(tasks))
    axes = figure.add_subplot()
    places = range(len(tasks))
    axes.barh(places, [100 * row["thinking_ratio"] for row in tasks], color=COLORS["red"], height=0.6)
    oracle = [(place, 100 * row["oracle"]) for place, row in zip(places, tasks, strict=True) if known(row["oracle"])]
    if oracle:
        axes.plot([x for _, x in oracle], [y for y, _ in oracle], "|", color="black", markersize=11, label="oracle")
        axes.legend(fontsize=8, frameon=False, bbox_to_anchor=(1, 1), loc="upper left")
    axes.set_yticks(places, [_plain(row["task"]) for row in tasks])
    axes.set(xlabel="thinking ratio, %", xlim=(0, 100))
    axes.invert_yaxis()


def _draw_reliability(figure: Figure, rows: list[dict], metrics: dict) -> None:
    figure.set_size_inches(4.6, 4.4)
    axes = figure.add_subplot()
    axes.plot([0, 100], [0, 100], "--", color=COLORS["gray"], linewidth=1)
    most = max(row["n"] for row in rows)
    sizes = [20 + 180 * row["n"] / most for row in rows]
    x, y = [100 * row["probability"] for row in rows], [100 * row["thinking_pays"] for row in rows]
    axes.scatter(x, y, sizes, color=COLORS["blue"], alpha=0.7, clip_on=False)
    axes.set(xlabel="router's probability of thinking, %", ylabel="questions where thinking pays, %")
    axes.set(xlim=(0, 100), ylim=(0, 100), aspect="equal")


def _plain(text: str) -> str:
    """A name as matplotlib draws it: short, on one line, with `$` as a sign and not as the start of a formula."""
    text = " ".join(text.split())
    return (text if len(text) <= 30 else text[:29] + "…").replace("$", r"\$")
