"""The demo's report: one HTML file that needs nothing beside it, neither files nor a network."""

from collections.abc import Iterable
from pathlib import Path

from ..reports.page import data_uri, frame_to, known, place_labels, render_page


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
SHAPES = {
    "base": "circle", "reasoning_only": "up", "dense_mixed": "plus", "hybrid": "diamond", "hybrid_thinking": "down",
    "hybrid_non_thinking": "square",
}  # fmt: skip


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
    >>> from hf_metis_home.demo.report import write_report

    >>> write_report(json.load(open("runs/demo/results.json")), samples=[], path="report.html")
    ```
    """
    models = {name: about for name, about in MODELS.items() if name in results["models"]}
    tasks = list(dict.fromkeys(task for name in models for task in results["models"][name]))
    text = render_page(
        Path(__file__).with_name("report.html.jinja"),
        results=results,
        seeds=_seeds(results),
        models=models,
        shapes=SHAPES,
        tasks=[task for task in tasks if task not in POOLED] + [task for task in POOLED if task in tasks],
        pooled=POOLED,
        plots={task: _plot(results["models"], models, task) for task in POOLED if task in tasks},
        samples=[
            {**sample, "image": None if sample["image"] is None else data_uri(sample["image"])} for sample in samples
        ],
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
        if cell is not None and known(cell["accuracy"]) and known(cell["mean_tokens"]):
            points.append((name, cell))
    frame = frame_to(max([cell["mean_tokens"] for _, cell in points], default=1.0))
    marks = []
    for name, cell in points:
        error = cell["stderr"] if known(cell.get("stderr")) else 0.0
        mark = {"model": name, "x": frame.x(cell["mean_tokens"]), "y": frame.y(cell["accuracy"]), "cell": cell}
        marks.append({**mark, "low": frame.y(cell["accuracy"] - error), "high": frame.y(cell["accuracy"] + error)})
    place_labels(marks, frame)
    return {"frame": frame, "marks": marks}
