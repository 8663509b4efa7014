"""
The demo's report: one HTML file that needs nothing beside it, neither files nor a network.

Left out: scripts. Everything is text, CSS and SVG, so that the file can be mailed, archived and diffed.
"""

import base64
import io
import math
from collections.abc import Iterable
from pathlib import Path


# Order, name and meaning of the columns; models that the results do not have are skipped.
MODELS = {
    "base": ("Base", "the dense model before Stage-SFT; it plays Qwen2.5-VL"),
    "reasoning_only": ("Reasoning only", "the base trained further on reasoning answers alone, answering freely"),
    "dense_mixed": ("Dense, mixed data", "the control: the base trained on the hybrid's data, without branches"),
    "hybrid": ("Hybrid, routed", "two branches; the router picks one per question"),
    "hybrid_thinking": ("Hybrid, thinking", "the same model, every question sent to the thinking branch"),
    "hybrid_non_thinking": ("Hybrid, non-thinking", "the same model, every question sent to the non-thinking branch"),
}
POOLED = ("easy", "hard")
PLOT_WIDTH, PLOT_HEIGHT = 520, 320
LEFT, RIGHT, TOP, BOTTOM = 48, 150, 12, 44
LINE_HEIGHT = 18


def write_report(results: dict, samples: Iterable[dict], path: str | Path) -> Path:
    """
    Write the report of a demo run.

    Args:
        results (`dict`):
            What `results.json` holds. `models`: model name to task to `accuracy`, `stderr` (both in [0, 1]), `n`,
            `thinking_ratio` and `mean_tokens`, with the pooled tasks `easy` and `hard`; a value that was not measured
            is `None`. `statement`: paragraphs on what the run shows and what it does not. `seconds`: stage to seconds.
            `versions`: package to version. `seed`, `preset`. With several seeds the values are means, `spread` beside
            them maps a metric's name to the standard deviation over seeds, and `seeds` holds the single runs.
        samples (`Iterable[dict]`):
            Test questions that the reloaded hybrid answered: `image` (`PIL.Image` or `None`), `question`, `gold`,
            `task`, `thinking_probability`, `thinking` (`bool`), `thought`, `answer`, `correct` (`bool`).
        path (`str` or `Path`):
            File to write; its folder is made.

    Returns:
        `Path`: `path`.

    Example:

    ```python
    >>> import json
    >>> from hf_metis_home.lab.report import write_report

    >>> write_report(json.load(open("runs/demo/results.json")), samples=[], path="report.html")
    ```
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(percent=_percent, decimal=_decimal, number=_number)
    models = {name: about for name, about in MODELS.items() if name in results["models"]}
    tasks = list(dict.fromkeys(task for name in models for task in results["models"][name]))
    template = Path(__file__).with_name("report.html.jinja").read_text(encoding="utf-8")
    text = environment.from_string(template).render(
        results=results,
        seeds=_seeds(results),
        models=models,
        tasks=[task for task in tasks if task not in POOLED] + [task for task in POOLED if task in tasks],
        pooled=POOLED,
        plots={task: _plot(results["models"], models, task) for task in POOLED if task in tasks},
        plot_size=(PLOT_WIDTH, PLOT_HEIGHT, LEFT, RIGHT, TOP, BOTTOM),
        samples=[{**sample, "image": _data_uri(sample["image"])} for sample in samples],
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def _seeds(results: dict) -> list:
    """The seeds that the figures come from."""
    runs = results.get("seeds")
    if not runs:
        return [results["seed"]]
    return list(runs) if isinstance(runs, dict) else [run["seed"] for run in runs]


def _plot(cells: dict, models: dict, task: str) -> dict:
    """Where the marks of one plot of accuracy against tokens stand, in pixels."""
    points = []
    for name in models:
        cell = cells[name].get(task)
        if cell is not None and _known(cell["accuracy"]) and _known(cell["mean_tokens"]):
            points.append((name, cell))
    step = _tick_step(max([cell["mean_tokens"] for _, cell in points], default=1.0))
    ticks = math.floor(max([cell["mean_tokens"] for _, cell in points], default=1.0) / step) + 1

    def x(tokens: float) -> float:
        return round(LEFT + tokens / (ticks * step) * (PLOT_WIDTH - LEFT - RIGHT), 1)

    def y(accuracy: float) -> float:
        return round(TOP + (1 - min(max(accuracy, 0.0), 1.0)) * (PLOT_HEIGHT - TOP - BOTTOM), 1)

    marks = []
    for name, cell in points:
        error = cell["stderr"] if _known(cell.get("stderr")) else 0.0
        mark = {"model": name, "x": x(cell["mean_tokens"]), "y": y(cell["accuracy"]), "cell": cell}
        marks.append({**mark, "low": y(cell["accuracy"] - error), "high": y(cell["accuracy"] + error)})
    _place_labels(marks)
    return {
        "marks": marks,
        "x_ticks": [(x(index * step), f"{index * step:g}") for index in range(ticks + 1)],
        "y_ticks": [(y(index / 4), f"{25 * index}") for index in range(5)],
    }


def _place_labels(marks: list[dict]) -> None:
    """Adds `label_y`: names stand in one column, in the order of their marks, which often nearly coincide."""
    # The height that a name wants, moved down to clear the one above, then up where the column would leave the plot.
    lowest = PLOT_HEIGHT - BOTTOM
    ordered = sorted(marks, key=lambda mark: (mark["y"], mark["x"]))
    above = TOP - LINE_HEIGHT
    for mark in ordered:
        mark["label_y"] = above = max(mark["y"], above + LINE_HEIGHT)
    for mark in reversed(ordered):
        mark["label_y"] = lowest = min(mark["label_y"], lowest)
        lowest -= LINE_HEIGHT


def _tick_step(highest: float) -> float:
    """A round distance (1, 2 or 5 times a power of ten) that divides [0, highest] into at most about five parts."""
    rough = max(highest, 1e-6) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)


def _data_uri(image) -> str | None:
    if image is None:
        return None
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _percent(value: float | None, digits: int = 1, unit: str = "") -> str:
    return f"{100 * value:.{digits}f}{unit}" if _known(value) else "–"


def _decimal(value: float | None, digits: int = 1) -> str:
    return f"{value:.{digits}f}" if _known(value) else "–"


def _number(value: float | None) -> str:
    return f"{value:,}" if _known(value) else "–"
