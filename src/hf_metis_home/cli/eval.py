"""
Answer every question with both branches, and write the table of outcomes.

The miniature's questions:

    metis-home eval --model_name_or_path runs/demo/hybrid --output_dir runs/outcomes

Rows of your own, a benchmark and a reasoning-gym family:

    metis-home eval --model_name_or_path runs/sft --tasks rows.parquet mmstar reasoning_gym:basic_arithmetic \\
        --output_dir runs/outcomes

The same command again goes on where a run was killed.
"""

import json
import sys
import time
from dataclasses import asdict, dataclass, field

from ._run import print_statement, run_verb


LONGEST_ANSWER = 2048  # tokens, where the model has room for them


@dataclass
class EvalArguments:
    model_name_or_path: str = field(metadata={"help": "two-branch or dense model, folder or Hub id"})
    output_dir: str = field(metadata={"help": "folder to write; must not exist, or be empty"})
    model_revision: str | None = field(
        default=None, metadata={"help": "branch, tag or commit of the Hub repository (default: the newest)"}
    )
    tasks: list[str] | None = field(
        default=None,
        metadata={
            "help": "what to ask: tasks of the miniature (all of them by default), benchmarks by name or task file "
            "(.yaml), reasoning_gym:FAMILY, rows with prompt, images, solution and task by path or Hub id"
        },
    )
    dataset_split: str = field(
        default="test", metadata={"help": "split of rows among --tasks, where there are several"}
    )
    limit: int | None = field(
        default=None, metadata={"help": "questions of each task: the first ones, or so many are made (50 by default)"}
    )
    max_new_tokens: int | None = field(
        default=None,
        metadata={"help": "longest answer in tokens (default: 2048, or half of the model's positions if that is less)"},
    )
    batch_size: int = field(default=8, metadata={"help": "questions per batch"})
    samples: int = field(default=1, metadata={"help": "answers per question and branch; several need a temperature"})
    temperature: float = field(default=0.0, metadata={"help": "0 answers greedily"})
    seed: int = field(default=0, metadata={"help": "seed of the sampling, and of questions that are made"})
    dtype: str = field(default="auto", metadata={"help": "type in which the weights are loaded"})
    trust_remote_code: bool = field(default=False, metadata={"help": "let a repository run its own code"})


def main(argv: list[str] | None = None) -> int:
    """`metis-home eval`. Takes the flags, gives the exit code."""
    return run_verb("eval", EvalArguments, _eval, argv, __doc__)


def _eval(arguments: EvalArguments) -> None:
    from .._extras import require_extra

    require_extra("eval", "datasets", "pyarrow", "math_verify", "matplotlib")
    from .._folders import check_output_dir, staged_folder
    from .._progress import progress
    from ..data.work_file import WorkFile
    from ..evaluation.outcomes import collect_outcomes, write_outcomes
    from ..evaluation.run_record import OPTIONS, run_record, run_settings
    from ..reports.report import write_report
    from ..tasks.questions import load_questions, write_questions
    from ._models import load_model

    output_dir = check_output_dir(arguments.output_dir)
    given = asdict(arguments)
    rows, sources = load_questions(
        arguments.tasks, split=arguments.dataset_split, limit=arguments.limit, seed=arguments.seed
    )
    model, processor = load_model(
        arguments.model_name_or_path, arguments.dtype, arguments.trust_remote_code, arguments.model_revision
    )
    if given["max_new_tokens"] is None:
        given["max_new_tokens"] = min(LONGEST_ANSWER, model.config.get_text_config().max_position_embeddings // 2)
    settings = run_settings(given, model, rows)
    work = WorkFile(output_dir.with_name(f"{output_dir.name}.outcomes.jsonl"), settings)
    try:
        started = time.perf_counter()
        options = {name: given[name] for name in OPTIONS}
        with progress("Answering", total=len(rows), unit="questions") as advance:
            outcomes = collect_outcomes(model, processor, rows, work=work, progress=advance, **options)
        run = run_record(given, model, settings, sources, outcomes, time.perf_counter() - started)
        with staged_folder(output_dir) as staging:
            write_outcomes(outcomes, staging / "outcomes.parquet")
            questions = write_questions(rows, staging / "questions.parquet")
            (staging / "run.json").write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")
            results = write_report(outcomes, run, staging, questions=questions)
        work.path.unlink()
    finally:
        work.close()
    print_statement(results)
    failed = results["tasks"]["all"]["failed"]
    print(
        f"Wrote {len(outcomes):,} outcomes to {output_dir}/outcomes.parquet"
        + (f", {failed:,} of them failed, with the reason in the column `error`" if failed else "")
        + f". Next: open {output_dir}/report.html, or run metis-home fit-router --outcomes to fit the router to them."
    )


if __name__ == "__main__":
    sys.exit(main())
