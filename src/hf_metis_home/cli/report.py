"""
Write the report of an evaluation from its outcomes, without generating anything and without the model.

    metis-home report --outcomes runs/outcomes --output_dir runs/report

Next to dense models that answered the same questions, and at another threshold:

    metis-home report --outcomes runs/outcomes --output_dir runs/report-0.3 --threshold 0.3 \\
        --baselines dense=runs/dense_outcomes
"""

from dataclasses import dataclass
from pathlib import Path

from ._arguments import UsageError, flag
from ._run import print_statement, verb


@dataclass
class ReportArguments:
    outcomes: str = flag("folder that `metis-home eval` wrote, or its outcomes.parquet")
    output_dir: str = flag("folder to write; must not exist or be empty")
    threshold: float | None = flag("the router's threshold (default: the model's, or 0.5)", None)
    baselines: list[str] | None = flag(
        "models to compare with, as name=FOLDER with outcomes on the same questions", None
    )


@verb
def main(arguments: ReportArguments) -> None:
    """Run `metis-home report`."""
    baselines = _named(arguments.baselines or [])
    from .._extras import require_extra

    require_extra("eval", "datasets", "pyarrow", "matplotlib")
    from .._folders import staged_folder
    from ..reports.report import write_report

    with staged_folder(arguments.output_dir) as staging:
        results = write_report(arguments.outcomes, staging, threshold=arguments.threshold, baselines=baselines)
    print_statement(results)
    print(
        f"Wrote report.html, results.json, model_index.json and plots/ to {arguments.output_dir}. Next: open "
        f"{Path(arguments.output_dir) / 'report.html'} in a browser."
    )


def _named(words: list[str]) -> dict[str, str]:
    named = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not equals or not name or not path:
            raise UsageError(f"`--baselines` has {word!r}, but needs name=FOLDER, such as dense=runs/dense_outcomes.")
        if name in named:
            raise UsageError(f"`--baselines` names {name!r} twice. Give every model its own name.")
        named[name] = path
    return named


if __name__ == "__main__":
    raise SystemExit(main())
