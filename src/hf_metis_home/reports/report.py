"""
The report of an evaluation: what a table of outcomes says, for readers, for plots and for the Hub.

Everything comes from the table and from what lies beside it; nothing is generated, and the model is not needed.
"""

import json
import math
import shlex
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from datasets import Dataset

from ..evaluation.metrics import evaluate_outcomes
from ..evaluation.policies import Policy, policies_of
from .figures import reliability_rows, thinking_ratio_rows, write_plots
from .hub_results import eval_results, model_index
from .outcomes_folder import read_outcomes_folder
from .page import Frame, frame_to, known, place_labels, render_page
from .statement import statement
from .wrong_routes import shorten, wrong_routes


DEFAULT_THRESHOLD = 0.5  # the configuration's
CURVE_POINTS = 120
REASONS = 30
SUBJECTS = 50  # of a task
TASKS_NAMED = 8  # beside a reason
LONGEST_FACT = 600  # characters
ROUTER_COLUMNS = {
    "tokens_saved": "tokens saved",
    "seconds_saved": "seconds saved",
    "hacc": "HAcc",
    "regret": "regret",
    "apgr": "APGR",
    "cpt50": "CPT(50 %)",
    "cpt80": "CPT(80 %)",
    "nauc": "nAUC",
    "ece": "ECE",
}

LEAKAGE_COLUMNS = {
    "reflective": "reflective words",
    "thought": "reasoning around the answer",
    "tokens": "tokens, non-thinking",
}


def write_report(
    outcomes: Dataset,
    run: dict,
    output_dir: str | Path,
    *,
    questions: str | Path | None = None,
    threshold: float | None = None,
    baselines: Mapping[str, Dataset] | None = None,
    command: str | None = None,
) -> dict:
    """
    Write the report of an evaluation.

    Args:
        outcomes ([`~datasets.Dataset`]):
            As [`~evaluation.outcomes.collect_outcomes`] returns them.
        run (`dict`):
            The record of the run that goes into `run.json`; `{}` if there is none.
        output_dir (`str` or `Path`):
            Folder that gets `report.html`, `results.json`, `model_index.json`, `plots/` and, for tasks that `run` says
            come from a dataset on the Hub, `.eval_results/`. Files with these names are replaced.
        questions (`str` or `Path`, *optional*):
            `questions.parquet`, to show the questions that the router sent to the wrong branch.
        threshold (`float`, *optional*):
            Threshold of the router; by default the one in `run`, else 0.5.
        baselines (`dict[str, Dataset]`, *optional*):
            Other models to compare with: name to outcomes on the same questions.
        command (`str`, *optional*):
            Shell command that writes this report again. Default: the one for the folder that `run` names.

    Returns:
        `dict`: what `results.json` contains: the metrics and `run`.

    Raises:
        ValueError: a threshold outside [0, 1], a table without rows, a baseline with other questions.

    Example:

    ```python
    >>> from hf_metis_home.reports.report import write_report

    >>> write_report(outcomes, run, "runs/report")["tasks"]["all"]["policies"]["router"]["accuracy"]
    ```
    """
    threshold, threshold_source = _threshold(threshold, run)
    metrics = evaluate_outcomes(outcomes, threshold, baselines=dict(baselines or {}) or None)
    arguments = run.get("arguments") or {}
    model = Path(str(arguments.get("model_name_or_path") or "unnamed model")).resolve().name
    if command is None and arguments.get("output_dir"):
        command = report_command(arguments["output_dir"])
    results = {**metrics, "run": run}

    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    write_plots(metrics, output_dir / "plots")
    _write_json(output_dir / "results.json", results)
    _write_json(output_dir / "model_index.json", model_index(metrics["tasks"], model, run.get("tasks")))
    _write_eval_results(output_dir / ".eval_results", metrics, run)
    frame = outcomes.to_pandas()
    page = render_page(
        Path(__file__).with_name("report.html.jinja"),
        model=model,
        tasks=metrics["tasks"],
        names=[task for task in metrics["tasks"] if task != "all"],
        policies=(policies := policies_of(metrics)),
        routed="router" in metrics["tasks"]["all"]["policies"],
        threshold=threshold,
        threshold_source=threshold_source,
        statement=statement(results),
        plots=_plots(metrics, policies),
        router_columns=ROUTER_COLUMNS,
        ratios=_ratios(metrics),
        reliability=_reliability(metrics),
        leakage_columns=LEAKAGE_COLUMNS,
        failed=_failed(frame),
        wrong=wrong_routes(frame, threshold, questions),
        command=command,
        facts=_facts(outcomes, baselines),
        described=_described(run),
    )
    (output_dir / "report.html").write_text(page, encoding="utf-8")
    return results


def write_report_from_folder(
    outcomes: str | Path,
    output_dir: str | Path,
    *,
    threshold: float | None = None,
    baselines: Mapping[str, str | Path] | None = None,
) -> dict:
    """
    [`write_report`] for an evaluation on disk.

    Args:
        outcomes (`str` or `Path`):
            Folder that `metis-home eval` wrote, or just its `outcomes.parquet`. `run.json` and `questions.parquet` are
            optional.
        output_dir, threshold:
            As in [`write_report`].
        baselines (`dict[str, str | Path]`, *optional*):
            Other models to compare with: name to folder or Parquet file with outcomes on the same questions.

    Returns:
        `dict`: what `results.json` contains.

    Raises:
        FileNotFoundError: no outcomes there.
        ValueError: a file that cannot be read, or as in [`write_report`].

    Example:

    ```python
    >>> from hf_metis_home.reports.report import write_report_from_folder

    >>> write_report_from_folder("runs/outcomes", "runs/report")["tasks"]["all"]["policies"]["router"]["accuracy"]
    ```
    """
    folder = read_outcomes_folder(outcomes)
    return write_report(
        folder.outcomes,
        folder.run,
        output_dir,
        questions=folder.questions,
        threshold=threshold,
        baselines={name: read_outcomes_folder(path, "baselines").outcomes for name, path in (baselines or {}).items()},
        command=report_command(outcomes, threshold, baselines),
    )


def report_command(outcomes: str | Path, threshold: float | None = None, baselines: Mapping | None = None) -> str:
    """The shell command that writes a report again."""
    words = ["metis-home", "report", "--outcomes", str(outcomes)]
    words += ["--baselines", *(f"{name}={path}" for name, path in baselines.items())] if baselines else []
    words += [] if threshold is None else ["--threshold", f"{threshold:g}"]
    return shlex.join([*words, "--output_dir", "report"])


def _threshold(given: float | None, run: dict) -> tuple[float, str]:
    """The threshold, and a few words on where it comes from."""
    if given is not None:
        if not 0 <= given <= 1:
            raise ValueError(f"`threshold` is {given!r}, but must be a probability: from 0 to 1.")
        return given, ", as asked for"
    if known(run.get("thinking_threshold")):
        return run["thinking_threshold"], ", the model's own"
    return DEFAULT_THRESHOLD, ", the default of the configuration"


def _write_eval_results(folder: Path, metrics: dict, run: dict) -> None:
    import yaml

    date, threshold = run.get("date"), metrics["threshold"]
    for name, entries in eval_results(metrics["tasks"], run.get("tasks"), threshold, date).items():
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(yaml.safe_dump(entries, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _plots(metrics: dict, policies: list[Policy]) -> dict[str, dict]:
    """Task to its plot of accuracy against tokens, all questions first."""
    order = ["all", *(task for task in metrics["tasks"] if task != "all")]
    plots = {task: _pareto(metrics["tasks"][task], (metrics.get("curve") or {}).get(task), policies) for task in order}
    return {task: plot for task, plot in plots.items() if plot["marks"]}


def _pareto(cells: dict, curve: list[dict] | None, policies: list[Policy]) -> dict:
    pairs = [(policy, cells["policies"].get(policy.name)) for policy in policies]
    pairs = [(policy, cell) for policy, cell in pairs if cell and known(cell["accuracy"]) and known(cell["tokens"])]
    curve = sorted(curve or [], key=lambda point: point["tokens"])
    curve = curve[:: -(-len(curve) // CURVE_POINTS)] + curve[-1:] if curve else []
    heights = [height for _, cell in pairs for height in _interval(cell)] + [point["accuracy"] for point in curve]
    start, end = _span(heights)
    frame = frame_to(max([cell["tokens"] for _, cell in pairs], default=1.0), y_start=start, y_end=end)
    marks = []
    for policy, cell in pairs:
        low, high = _interval(cell)
        mark = {"policy": policy, "cell": cell, "x": frame.x(cell["tokens"]), "y": frame.y(cell["accuracy"])}
        marks.append({**mark, "low": frame.y(low), "high": frame.y(high)})
    place_labels(marks, frame)
    ends = [mark for mark in marks if mark["policy"].name in ("thinking", "non_thinking")]
    return {
        "frame": frame,
        "marks": marks,
        "curve": " ".join(f"{frame.x(point['tokens'])},{frame.y(point['accuracy'])}" for point in curve),
        "chance": " ".join(f"{mark['x']},{mark['y']}" for mark in ends) if len(ends) == 2 else "",
    }


def _interval(cell: dict) -> tuple[float, float]:
    low, high = cell.get("interval") or (None, None)
    return (low, high) if known(low) and known(high) else (cell["accuracy"], cell["accuracy"])


def _span(shares: list[float]) -> tuple[float, float]:
    """Ends of an axis in tenths, around the shares and at least two tenths long."""
    if not shares:
        return 0.0, 1.0
    start, end = math.floor(10 * min(shares) + 1e-9), math.ceil(10 * max(shares) - 1e-9)
    start, end = max(start, 0), min(end, 10)
    while end - start < 2:
        start, end = max(start - 1, 0), min(end + 1, 10)
    return start / 10, end / 10


def _ratios(metrics: dict) -> list[dict]:
    """Thinking ratios of tasks and of each one's largest subjects."""
    rows, found = [], thinking_ratio_rows(metrics)
    for task in dict.fromkeys(row["task"] for row in found):
        mine = [row for row in found if row["task"] == task]
        subjects = sorted((row for row in mine if row["subject"] is not None), key=lambda row: -row["n"])
        rows += [row for row in mine if row["subject"] is None] + subjects[:SUBJECTS]
    return rows


def _reliability(metrics: dict) -> dict | None:
    rows = reliability_rows(metrics)
    if not rows:
        return None
    ticks = [(index / 4, f"{25 * index}") for index in range(5)]
    frame = Frame(1.0, ticks, width=400, height=340, right=20)
    most = max(row["n"] for row in rows)
    dots = []
    for row in rows:
        place = {"x": frame.x(row["probability"]), "y": frame.y(row["thinking_pays"])}
        dots.append({**row, **place, "radius": round(2.5 + 9 * (row["n"] / most) ** 0.5, 1)})
    return {"frame": frame, "dots": dots, "diagonal": f"{frame.x(0)},{frame.y(0)} {frame.x(1)},{frame.y(1)}"}


def _failed(frame) -> dict:
    """Rows with an error, counted by its text."""
    rows = frame[frame["error"].notna()]
    reasons = [
        {
            "error": shorten(error, LONGEST_FACT),
            "n": len(group),
            "tasks": list(dict.fromkeys(group["task"]))[:TASKS_NAMED],
            "id": group["id"].iloc[0],
        }
        for error, group in rows.groupby("error", sort=False)
    ]
    reasons.sort(key=lambda reason: -reason["n"])
    return {"n": len(rows), "reasons": reasons[:REASONS], "more": len(reasons) > REASONS}


def _facts(outcomes: Dataset, baselines: Mapping[str, Dataset] | None) -> dict[str, str]:
    written = {
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "hf-metis-home": __version__,
    }
    rows = {"outcomes": outcomes} | {f"baseline {name}": table for name, table in (baselines or {}).items()}
    return written | {name: f"{len(table):,} rows" for name, table in rows.items()}


def _described(run: dict) -> dict[str, dict[str, str]]:
    """`run.json` as short tables: its objects each their own, everything else under one heading."""
    tables, rest = {}, {}
    for name, value in run.items():
        if isinstance(value, dict) and value:
            tables[name.replace("_", " ").capitalize()] = {key: _fact(part) for key, part in value.items()}
        else:
            rest[name.replace("_", " ")] = _fact(value)
    return ({"The evaluation": rest} if rest else {}) | tables


def _fact(value: object) -> str:
    if value is None:
        return "–"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return shorten(text, LONGEST_FACT)
