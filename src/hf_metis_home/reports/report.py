"""
The report of an evaluation: what a table of outcomes says, as a page, as plots and as files for the Hub.

Everything is computed from the table. Nothing is generated, and the model is not needed.
"""

import json
import shlex
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import groupby, islice
from pathlib import Path

from .. import __version__
from ..evaluation.metrics import answer_format_of, evaluate_outcomes
from ..evaluation.outcomes_folder import OutcomesFolder, read_outcomes_folder
from ..evaluation.policies import policies_of
from .figures import MARKERS, pareto_figure, reliability_rows, svg_uri, thinking_ratio_rows, write_plots
from .hub_results import eval_results, model_index, write_eval_results
from .page import known, render_page
from .statement import statement
from .wrong_routes import LONGEST_TEXT, wrong_routes


DEFAULT_THRESHOLD = 0.5  # of the model's configuration
SUBJECTS = 50  # per task
REASONS = 30


def write_report(
    outcomes: str | Path | OutcomesFolder,
    output_dir: str | Path,
    *,
    threshold: float | None = None,
    baselines: Mapping[str, str | Path] | None = None,
    command: str | None = None,
) -> dict:
    """
    Write the report of an evaluation.

    Args:
        outcomes (`str`, `Path` or [`~evaluation.outcomes_folder.OutcomesFolder`]):
            Folder that `metis-home eval` wrote, or just the file that [`~evaluation.outcomes.write_outcomes`] wrote.
            `run.json` and `questions.parquet` next to it are optional. With an `OutcomesFolder`, whose table is in
            memory already, neither the outcomes nor `run.json` are read.
        output_dir (`str` or `Path`):
            Folder that gets `report.html`, `results.json`, `model_index.json`, `plots/` and, for tasks that `run.json`
            says come from a dataset on the Hub, `.eval_results/`. Files with these names are replaced.
        threshold (`float`, *optional*):
            Threshold of the router; by default the one in `run.json`, else 0.5.
        baselines (`dict[str, str | Path]`, *optional*):
            Other models to compare with: name to folder or Parquet file with outcomes on the same questions.
        command (`str`, *optional*):
            Shell command that writes this report again, to show on the page; by default for these arguments.

    Returns:
        `dict`: what `results.json` contains: the metrics and `run`.

    Raises:
        FileNotFoundError: no outcomes there.
        ValueError: a file that cannot be read, a threshold outside [0, 1], a table without rows, a baseline with other
            questions.

    Example:

    ```python
    >>> from hf_metis_home.reports.report import write_report

    >>> write_report("runs/outcomes", "runs/report")["tasks"]["all"]["policies"]["router"]["accuracy"]
    ```
    """
    if isinstance(outcomes, OutcomesFolder):
        evaluation, outcomes = outcomes, outcomes.path
    else:
        evaluation = read_outcomes_folder(outcomes)
    others = {name: read_outcomes_folder(path, "baselines").outcomes for name, path in (baselines or {}).items()}
    run = evaluation.run
    given, threshold_source = threshold, "as requested"
    if threshold is None:
        own = run.get("thinking_threshold")
        threshold, threshold_source = (own, "the model's own") if known(own) else (DEFAULT_THRESHOLD, "the default")
    metrics = evaluate_outcomes(evaluation.outcomes, threshold, baselines=others, answer_format=answer_format_of(run))
    arguments = run.get("arguments") or {}
    model = Path(str(arguments.get("model_name_or_path") or "unnamed model")).resolve().name
    results = {**metrics, "run": run}

    # Files for other programs.
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    index = model_index(metrics["tasks"], model, run.get("tasks"))
    for name, value in (("results.json", results), ("model_index.json", index)):
        (output_dir / name).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    write_eval_results(output_dir, eval_results(metrics["tasks"], run.get("tasks"), threshold, run.get("date")))
    plots = {name: svg_uri(figure) for name, figure in write_plots(metrics, output_dir / "plots").items()}

    # The page for readers.
    names = [task for task in metrics["tasks"] if task != "all"]
    by_task = {task: pareto_figure(metrics, task) for task in names if len(names) > 1}
    by_subject = (rows for _, rows in groupby(thinking_ratio_rows(metrics), lambda row: row["task"]))
    tables = {"outcomes": evaluation.outcomes} | {f"baseline {name}": table for name, table in others.items()}
    facts = {"written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), "hf-metis-home": __version__}
    frame = evaluation.outcomes.to_pandas()
    page = render_page(
        Path(__file__).with_name("report.html.jinja"),
        model=model,
        tasks=metrics["tasks"],
        names=names,
        policies=policies_of(metrics),
        markers=MARKERS,
        routed="router" in metrics["tasks"]["all"]["policies"],
        threshold=threshold,
        threshold_source=threshold_source,
        statement=statement(results),
        reasons=REASONS,
        task_plots={task: svg_uri(figure) for task, figure in by_task.items() if figure},
        plots=plots,
        ratios=[row for rows in by_subject for row in islice(rows, 1 + SUBJECTS)],
        reliability=reliability_rows(metrics),
        failures=_failures(frame),
        wrong=wrong_routes(frame, threshold, evaluation.questions),
        longest=LONGEST_TEXT,
        command=command or report_command(outcomes, given, baselines),
        facts=facts | {name: f"{len(table):,} rows" for name, table in tables.items()},
        run=run,
    )
    (output_dir / "report.html").write_text(page, encoding="utf-8")
    return results


def report_command(outcomes: str | Path, threshold: float | None = None, baselines: Mapping | None = None) -> str:
    """The shell command that writes a report again."""
    words = ["metis-home", "report", "--outcomes", str(outcomes)]
    words += ["--baselines", *(f"{name}={path}" for name, path in baselines.items())] if baselines else []
    words += [] if threshold is None else ["--threshold", f"{threshold:g}"]
    return shlex.join([*words, "--output_dir", "report"])


def _failures(frame) -> list[dict]:
    """Errors of the rows: text, count, tasks and the id of one row, the most frequent first."""
    groups = frame.groupby("error", sort=False)
    found = groups.agg(n=("id", "size"), tasks=("task", "unique"), id=("id", "first")).reset_index()
    return found.sort_values("n", ascending=False, kind="stable").to_dict("records")
