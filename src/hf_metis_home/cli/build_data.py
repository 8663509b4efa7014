"""
Build Stage-SFT rows from what a model always, sometimes and never gets right.

With a model in this process; the solutions of general prompts become direct answers:

    metis-home build-data --model_name_or_path runs/stage-rl --dataset prompts.jsonl --general_dataset general.jsonl \\
        --output_dir runs/stage-sft-data

With a server, and a stronger model for prompts that are never solved:

    metis-home build-data --model_name_or_path my-model --endpoint http://localhost:8000/v1 --dataset prompts.jsonl \\
        --expert_model big-model --expert_endpoint http://localhost:8001/v1 --output_dir runs/stage-sft-data
"""

import sys
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval

from .._extras import require_extra
from ._arguments import PositiveFloat, PositiveInt, UsageError, command_line, flag
from ._models import ModelArguments
from ._run import print_table, verb


@dataclass(kw_only=True)
class BuildDataArguments(ModelArguments):
    model_name_or_path: str = flag("model to draw answers from: folder or Hub id, or its name at --endpoint")
    dataset: str = flag("prompts with solutions: a parquet or JSON-lines file, a folder, or a Hub id")
    output_dir: str = flag("folder to write; must not exist or be empty. Rollouts are kept beside it")
    dataset_split: str = flag("split of --dataset", "train")
    general_dataset: str | None = flag("prompts for direct answers, which are their solutions", None)
    general_split: str = flag("split of --general_dataset", "train")
    limit: PositiveInt | None = flag("use only the first prompts of --dataset", None)
    n_rollouts: PositiveInt = flag("answers per prompt", 8)
    temperature: PositiveFloat = flag("sampling temperature", 1.0)
    top_p: Annotated[float, Interval(gt=0, le=1)] = flag("nucleus sampling: probability mass to sample from", 1.0)
    max_new_tokens: PositiveInt = flag("longest answer in tokens", 2048)
    system_prompt: str | None = flag("system prompt for drawing answers; not written into the rows", None)
    batch_size: PositiveInt = flag("prompts per batch, without --endpoint", 4)
    endpoint: str | None = flag("OpenAI-compatible server, e.g. http://localhost:8000/v1", None)
    concurrency: PositiveInt = flag("parallel requests to either endpoint", 16)
    request_timeout: PositiveFloat = flag("seconds an endpoint may be silent", 600.0)
    api_key_env: str = flag("environment variable with the API key of --endpoint", "OPENAI_API_KEY")
    expert_endpoint: str | None = flag("server with a stronger model, for prompts that are never solved", None)
    expert_model: str | None = flag("the model's name at --expert_endpoint", None)
    expert_api_key_env: str = flag("environment variable with the API key of --expert_endpoint", "EXPERT_API_KEY")
    always_right: Literal["drop", "non_thinking"] = flag(
        "what to do with prompts that are always answered correctly: drop them, or keep them with direct answers",
        "drop",
    )
    other_mode_share: float = flag("share of each task's rows to write in the other mode", 0.1)
    seed: int = flag("seed of sampling and selection", 0)


@verb
def main(arguments: BuildDataArguments) -> None:
    """Run `metis-home build-data`."""
    require_extra("train", "datasets", "math_verify")
    if arguments.endpoint is not None and arguments.model_revision is not None:
        raise UsageError(
            f"`--model_revision` is {arguments.model_revision!r}, but the server at `--endpoint` has loaded its own. "
            "Remove one of the two."
        )
    if (arguments.expert_endpoint is None) != (arguments.expert_model is None):
        raise UsageError("`--expert_endpoint` and `--expert_model` belong together. Give both or neither.")
    from datasets import disable_progress_bars

    from .._folders import check_output_dir
    from ..data.build import build_data
    from ..data.endpoint import EndpointRollouts

    check_output_dir(arguments.output_dir)
    if not sys.stderr.isatty():
        disable_progress_bars()
    names = ("temperature", "top_p", "max_new_tokens", "seed", "system_prompt")
    sampling: dict = {name: getattr(arguments, name) for name in names}
    requests: dict = {"concurrency": arguments.concurrency, "timeout": arguments.request_timeout, **sampling}

    def server(url: str | None, model: str | None, key: str):
        return None if url is None else EndpointRollouts(url, model, api_key_env=key, **requests)

    expert = server(arguments.expert_endpoint, arguments.expert_model, arguments.expert_api_key_env)
    model = server(arguments.endpoint, arguments.model_name_or_path, arguments.api_key_env)
    reasoning = _prompts(arguments.dataset, arguments.dataset_split, "dataset", arguments.limit)
    general = _prompts(arguments.general_dataset, arguments.general_split, "general_dataset")
    report = build_data(
        reasoning,
        model or _local_model(arguments, sampling),
        arguments.output_dir,
        general=general,
        expert=expert,
        n_rollouts=arguments.n_rollouts,
        always_right=arguments.always_right,
        other_mode_share=arguments.other_mode_share,
        seed=arguments.seed,
        command=command_line("build-data", arguments),
    )
    _print_tasks(report["tasks"])
    if report["direct_shortfall"]:
        print(f"The general dataset is {report['direct_shortfall']} prompts short of the number of thinking rows.")
    print(
        f"Wrote {report['rows']} rows ({report['thinking']} thinking, {report['non_thinking']} non-thinking) to "
        f"{arguments.output_dir} (rollouts: {report['work_file']}). Next: metis-home sft --dataset_name "
        f"{arguments.output_dir}"
    )


def _prompts(name: str | None, split: str, where: str, limit: int | None = None):
    from ..data.loading import load_rows
    from ..data.prompt_sets import PromptSet

    if name is None:
        return None
    return PromptSet(load_rows(name, split, where, limit=limit), where)


def _local_model(arguments: BuildDataArguments, sampling: dict):
    from ..data.rollouts import ModelRollouts
    from ._models import load_model

    name, revision = arguments.model_name_or_path, arguments.model_revision
    model, processor = load_model(name, arguments.dtype, arguments.trust_remote_code, revision)
    name = name if revision is None else f"{name}@{revision}"
    return ModelRollouts(model, processor, name, batch_size=arguments.batch_size, **sampling)


def _print_tasks(tasks: dict[str, dict | None]) -> None:
    rows = []
    for task, counts in tasks.items():
        if counts is not None:
            lost = counts["no_trace"] + counts["no_expert"] + counts["wrong_expert"]
            solved = [counts[name] for name in ("always", "sometimes", "never", "malformed")]
            numbers = [*solved, f"{counts['mean_pass_rate']:.3f}", counts["own_traces"], counts["expert_traces"], lost]
            rows.append([task, *map(str, numbers)])
    columns = ["task", "always", "sometimes", "never", "malformed", "pass rate", "own", "expert's", "lost"]
    print_table(columns, rows, title="Prompts by how often they were solved")


if __name__ == "__main__":
    raise SystemExit(main())
