"""The demo's report: one HTML file that needs nothing else, neither other files nor a network."""

from collections.abc import Iterable
from pathlib import Path

from matplotlib.figure import Figure

from ..reports.figures import MARKERS, Mark, accuracy_figure, svg_uri
from ..reports.page import data_uri, known, render_page


# Order, name and meaning of the models; those that the results do not have are skipped.
MODELS = {
    "base": ("Base", "the dense model before Stage-SFT; it stands in for Qwen2.5-VL"),
    "reasoning_only": ("Reasoning only", "the base trained further on reasoning answers only"),
    "dense_mixed": ("Dense, mixed data", "the control: the base trained on the hybrid's data, without branches"),
    "hybrid": ("Hybrid, routed", "two branches; the router picks one for each question"),
    "hybrid_thinking": ("Hybrid, thinking", "the same model, always on the thinking branch"),
    "hybrid_non_thinking": ("Hybrid, non-thinking", "the same model, always on the non-thinking branch"),
}
LOOKS = {  # shape and color in the plots
    "base": ("circle", "gray"), "reasoning_only": ("up", "orange"), "dense_mixed": ("plus", "purple"),
    "hybrid": ("diamond", "blue"), "hybrid_thinking": ("down", "red"), "hybrid_non_thinking": ("square", "green"),
}  # fmt: skip
POOLED = ("easy", "hard")


def write_report(results: dict, samples: Iterable[dict], path: str | Path) -> Path:
    """
    Write the report of a demo run.

    Args:
        results (`dict`):
            Contents of `results.json`. `models`: model name to task to `accuracy`, `stderr` (both in [0, 1]), `n`,
            `thinking_ratio`, `mean_tokens` and `malformed`, with the pooled tasks `easy` and `hard`; a value that was
            not measured is `None`. `statement`: paragraphs on what the run shows and what it does not. `seconds`:
            stage to seconds. `versions`: package to version. `seed`, `preset`. With several seeds the values are means,
            `spread` maps a metric to its standard deviation over seeds, and `seeds` has the single runs.
        samples (`Iterable[dict]`):
            Test questions that the reloaded hybrid answered: `image` (`PIL.Image` or `None`), `question`, `gold`,
            `task`, `thinking_probability`, `thinking` (`bool`), `thought`, `answer`, `correct` (`bool`).
        path (`str` or `Path`):
            File to write; its folder is created if needed.

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
        seeds=[run["seed"] for run in results.get("seeds") or [results]],
        models=models,
        looks={name: (MARKERS[shape][1], color) for name, (shape, color) in LOOKS.items()},
        tasks=[task for task in tasks if task not in POOLED] + [task for task in POOLED if task in tasks],
        pooled=POOLED,
        plots={task: svg_uri(_plot(results["models"], models, task)) for task in POOLED if task in tasks},
        samples=[
            {**sample, "image": None if sample["image"] is None else data_uri(sample["image"])} for sample in samples
        ],
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def _plot(cells: dict, models: dict, task: str) -> Figure:
    marks = []
    for name, (title, _) in models.items():
        cell = cells[name].get(task)
        if cell is not None and known(cell["accuracy"]) and known(cell["mean_tokens"]):
            accuracy, error = cell["accuracy"], cell["stderr"] if known(cell.get("stderr")) else 0.0
            ends = (max(accuracy - error, 0.0), min(accuracy + error, 1.0))
            marks.append(Mark(title, cell["mean_tokens"], accuracy, ends, *LOOKS[name]))
    return accuracy_figure(marks)
