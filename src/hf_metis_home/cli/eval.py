"""
Answer every question with both branches and write the table of outcomes.

The miniature's questions:

    metis-home eval --model_name_or_path runs/demo/hybrid --output_dir runs/outcomes

Your own rows, a benchmark and a reasoning-gym family:

    metis-home eval --model_name_or_path runs/sft --tasks rows.parquet mmstar reasoning_gym:basic_arithmetic \\
        --output_dir runs/outcomes

Run the same command again to continue a run that was interrupted.
"""

import json
import time
from dataclasses import asdict, dataclass

from ._arguments import NonNegativeFloat, PositiveInt, flag
from ._models import ModelArguments
from ._run import print_statement, verb


LONGEST_ANSWER = 2048  # tokens, if the model has room for them


@dataclass(kw_only=True)
class EvalArguments(ModelArguments):
    output_dir: str = flag("folder to write; must not exist or be empty")
    tasks: list[str] | None = flag(
        "what to ask: tasks of the miniature (default: all of them), benchmarks by name or task file (.yaml), "
        "reasoning_gym:FAMILY, or datasets with prompt, images, solution and task, by path or Hub id",
        None,
    )
    dataset_split: str = flag("split of the datasets in --tasks that have several", "test")
    limit: PositiveInt | None = flag("questions per task: the first ones, or how many to generate (default: 50)", None)
    max_new_tokens: PositiveInt | None = flag(
        "longest answer in tokens (default: 2048, or half of the model's positions if that is less)", None
    )
    batch_size: PositiveInt = flag("questions per batch", 8)
    samples: PositiveInt = flag("answers per question and branch; more than one needs a temperature", 1)
    temperature: NonNegativeFloat = flag("sampling temperature; 0 is greedy", 0.0)
    seed: int = flag("seed of sampling and of generated questions", 0)


@verb
def main(arguments: EvalArguments) -> None:
    """Run `metis-home eval`."""
    from .._extras import require_extra

    require_extra("eval", "datasets", "pyarrow", "math_verify", "matplotlib")
    from .._folders import check_output_dir, staged_folder
    from .._progress import progress
    from ..data.work_file import WorkFile
    from ..evaluation.outcomes import collect_outcomes, write_outcomes
    from ..evaluation.outcomes_folder import OutcomesFolder
    from ..evaluation.run_record import OPTIONS, run_record, run_settings
    from ..reports.report import report_command, write_report
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
            table = staging / "outcomes.parquet"
            write_outcomes(outcomes, table)
            questions = write_questions(rows, staging / "questions.parquet")
            (staging / "run.json").write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")
            answered = OutcomesFolder(table, outcomes, run, questions)
            results = write_report(answered, staging, command=report_command(output_dir))
        work.path.unlink()
    finally:
        work.close()
    print_statement(results)
    failed = results["tasks"]["all"]["failed"]
    print(
        f"Wrote {len(outcomes):,} outcomes to {output_dir}/outcomes.parquet"
        + (f"; {failed:,} failed, see the column `error`" if failed else "")
        + f". Next: open {output_dir}/report.html, or train the router on them with metis-home fit-router."
    )


if __name__ == "__main__":
    raise SystemExit(main())
