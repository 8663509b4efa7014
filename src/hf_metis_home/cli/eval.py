"""
Answer every question of a dataset with both branches, and write the table of outcomes.

    metis-home eval --model_name_or_path runs/sft --dataset rows.parquet --output_dir runs/outcomes

Without a dataset the miniature's test questions are answered:

    metis-home eval --model_name_or_path runs/demo/hybrid --output_dir runs/outcomes
"""

import json
import sys
from dataclasses import dataclass, field

from ._run import run_verb


@dataclass
class EvalArguments:
    model_name_or_path: str = field(metadata={"help": "two-branch or dense model, folder or Hub id"})
    output_dir: str = field(metadata={"help": "folder to write; must not exist, or be empty"})
    dataset: str | None = field(
        default=None,
        metadata={"help": "rows with prompt, images, solution and task; the miniature's test questions by default"},
    )
    dataset_split: str = field(default="test", metadata={"help": "split of --dataset"})
    limit: int | None = field(default=None, metadata={"help": "only so many rows, from the first"})
    max_new_tokens: int = field(default=2048, metadata={"help": "longest answer in tokens"})
    batch_size: int = field(default=8, metadata={"help": "questions per batch"})
    samples: int = field(default=1, metadata={"help": "answers per question and branch; several need a temperature"})
    temperature: float = field(default=0.0, metadata={"help": "0 answers greedily"})
    seed: int = field(default=0, metadata={"help": "seed of the sampling"})
    dtype: str = field(default="auto", metadata={"help": "type in which the weights are loaded"})
    trust_remote_code: bool = field(default=False, metadata={"help": "let a repository run its own code"})


def main(argv: list[str] | None = None) -> int:
    """`metis-home eval`. Takes the flags, gives the exit code."""
    description = "Answer every question with both branches, and write the table of outcomes."
    return run_verb("eval", EvalArguments, _eval, argv, description)


def _eval(arguments: EvalArguments) -> None:
    from .._extras import require_extra

    require_extra("eval", "datasets", "pyarrow", "math_verify")
    from rich.progress import Progress

    from .._folders import staged_folder
    from ..data.answers import answers_match
    from ..evaluation.outcomes import collect_outcomes, write_outcomes
    from ..evaluation.summary import summarise_outcomes
    from ._models import load_model

    rows = _read_rows(arguments)
    with staged_folder(arguments.output_dir) as staging:
        model, processor = load_model(
            arguments.model_name_or_path, arguments.dtype, trust_remote_code=arguments.trust_remote_code
        )
        with Progress(transient=True, disable=not sys.stderr.isatty()) as progress:
            bar = progress.add_task("Answering", total=len(rows))
            outcomes = collect_outcomes(
                model, processor, rows, max_new_tokens=arguments.max_new_tokens, match=answers_match,
                batch_size=arguments.batch_size, samples=arguments.samples, temperature=arguments.temperature,
                seed=arguments.seed, progress=lambda count: progress.advance(bar, count),
            )  # fmt: skip
        write_outcomes(outcomes, staging / "outcomes.parquet")
        summary = summarise_outcomes(outcomes, getattr(model.config, "thinking_threshold", None))
        (staging / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    _print_summary(summary)
    print(
        f"Wrote outcomes.parquet and summary.json to {arguments.output_dir}. Next: metis-home fit-router "
        "--outcomes, to send each question where it pays."
    )


def _read_rows(arguments: EvalArguments):
    from .._extras import require_extra
    from ..data.loading import load_rows

    if arguments.dataset is None:
        require_extra("lab", "easy_vqa", "sklearn", "matplotlib")
        from ..lab.tasks import TASKS, make_dataset

        rows = make_dataset(dict.fromkeys(TASKS, 50), "test", arguments.seed)
    else:
        rows = load_rows(arguments.dataset, arguments.dataset_split)
    return rows if arguments.limit is None else rows.select(range(min(arguments.limit, len(rows))))


def _print_summary(summary: dict[str, dict]) -> None:
    from rich.console import Console
    from rich.table import Table

    columns = list(dict.fromkeys(name for cells in summary.values() for name in cells))
    labels = [name.replace("_", "\n", 1).replace("_", "-") for name in columns]
    table = Table("", *labels, box=None, pad_edge=False, header_style="bold")
    for column in table.columns[1:]:
        column.justify = "right"
    for task, cells in summary.items():
        values = [cells.get(name) for name in columns]
        table.add_row(task, *("–" if v is None else f"{v:.3g}" if isinstance(v, float) else str(v) for v in values))
    Console(highlight=False).print(table)


if __name__ == "__main__":
    sys.exit(main())
