"""
Make Stage-SFT rows from what a model gets right, sometimes right and wrong.

With a model in this process; general prompts are answered by their solutions:

    metis-home build-data --model_name_or_path runs/stage-rl --dataset prompts.jsonl --general_dataset general.jsonl \\
        --output_dir runs/stage-sft-data

With a server, and a stronger model for what is never solved:

    metis-home build-data --model_name_or_path my-model --endpoint http://localhost:8000/v1 --dataset prompts.jsonl \\
        --expert_model big-model --expert_endpoint http://localhost:8001/v1 --output_dir runs/stage-sft-data
"""

import shlex
import sys
from dataclasses import asdict, dataclass, field
from typing import Literal

from ._run import run_verb


@dataclass
class BuildDataArguments:
    model_name_or_path: str = field(
        metadata={"help": "whose answers are drawn: folder or Hub id; with --endpoint the model's name there"}
    )
    dataset: str = field(
        metadata={"help": "prompts with solutions: a parquet or JSON-lines file, a folder, or a Hub id"}
    )
    output_dir: str = field(
        metadata={"help": "folder to write; must not exist, or be empty. Rollouts are kept beside it"}
    )
    model_revision: str | None = field(
        default=None,
        metadata={"help": "branch, tag or commit of the Hub repository, without --endpoint (default: the newest)"},
    )
    dataset_split: str = field(default="train", metadata={"help": "split of --dataset"})
    general_dataset: str | None = field(
        default=None, metadata={"help": "prompts that are answered at once, by their solutions"}
    )
    general_split: str = field(default="train", metadata={"help": "split of --general_dataset"})
    limit: int | None = field(default=None, metadata={"help": "only so many prompts of --dataset, to try things out"})
    n_rollouts: int = field(default=8, metadata={"help": "answers per prompt"})
    temperature: float = field(default=1.0, metadata={"help": "temperature of the sampling"})
    top_p: float = field(default=1.0, metadata={"help": "nucleus of the sampling"})
    max_new_tokens: int = field(default=2048, metadata={"help": "longest answer in tokens"})
    system_prompt: str | None = field(
        default=None, metadata={"help": "put before every prompt when answers are drawn, but not into the rows"}
    )
    batch_size: int = field(default=4, metadata={"help": "prompts per batch, without --endpoint"})
    endpoint: str | None = field(
        default=None, metadata={"help": "server that speaks the OpenAI protocol, e.g. http://localhost:8000/v1"}
    )
    concurrency: int = field(default=16, metadata={"help": "requests at a time, for either endpoint"})
    request_timeout: float = field(default=600.0, metadata={"help": "seconds to wait for an answer of an endpoint"})
    api_key_env: str = field(
        default="OPENAI_API_KEY", metadata={"help": "environment variable that holds the key of --endpoint"}
    )
    expert_endpoint: str | None = field(
        default=None, metadata={"help": "server with a stronger model, for prompts that are never solved"}
    )
    expert_model: str | None = field(default=None, metadata={"help": "the model's name at --expert_endpoint"})
    expert_api_key_env: str = field(
        default="EXPERT_API_KEY", metadata={"help": "environment variable that holds the key of --expert_endpoint"}
    )
    always_right: Literal["drop", "non_thinking"] = field(
        default="drop", metadata={"help": "what becomes of prompts that are always solved; non_thinking: direct answer"}
    )
    other_mode_share: float = field(
        default=0.1, metadata={"help": "share of each task's rows in the mode that it is not meant for"}
    )
    seed: int = field(default=0, metadata={"help": "seed of the sampling and of what is chosen"})
    trust_remote_code: bool = field(default=False, metadata={"help": "let a repository run its own code"})


def main(argv: list[str] | None = None) -> int:
    """`metis-home build-data`. Takes the flags, gives the exit code."""
    return run_verb("build-data", BuildDataArguments, _build_data, argv, __doc__)


def _build_data(arguments: BuildDataArguments) -> None:
    from .._extras import require_extra

    require_extra("train", "datasets", "math_verify")
    _check(arguments)
    from datasets import disable_progress_bars

    from .._folders import check_output_dir
    from ..data.build import build_data
    from ..data.endpoint import EndpointRollouts

    check_output_dir(arguments.output_dir)
    if not sys.stderr.isatty():
        disable_progress_bars()
    sampling: dict = {name: getattr(arguments, name) for name in ("temperature", "top_p", "max_new_tokens", "seed")}
    sampling["system_prompt"] = arguments.system_prompt
    server: dict = {"concurrency": arguments.concurrency, "timeout": arguments.request_timeout}
    expert = None
    if arguments.expert_endpoint is not None:
        expert = EndpointRollouts(
            arguments.expert_endpoint,
            arguments.expert_model,
            api_key_env=arguments.expert_api_key_env,
            **sampling,
            **server,
        )
    model = None
    if arguments.endpoint is not None:
        model = EndpointRollouts(
            arguments.endpoint,
            arguments.model_name_or_path,
            api_key_env=arguments.api_key_env,
            **sampling,
            **server,
        )
    reasoning = _prompts(arguments.dataset, arguments.dataset_split, "dataset", arguments.limit)
    general = None
    if arguments.general_dataset is not None:
        general = _prompts(arguments.general_dataset, arguments.general_split, "general_dataset")
    if model is None:
        model = _local_model(arguments, sampling)
    report = build_data(
        reasoning,
        model,
        arguments.output_dir,
        general=general,
        expert=expert,
        n_rollouts=arguments.n_rollouts,
        always_right=arguments.always_right,
        other_mode_share=arguments.other_mode_share,
        seed=arguments.seed,
        command=_command(arguments),
    )
    _print_tasks(report["tasks"])
    if report["direct_shortfall"]:
        print(
            f"The general dataset has {report['direct_shortfall']} prompts fewer than there are thinking rows to match."
        )
    print(
        f"Wrote {report['rows']} rows ({report['thinking']} thinking, {report['non_thinking']} non-thinking) to "
        f"{arguments.output_dir}; the rollouts are kept in {report['work_file']}. Next: metis-home sft with this "
        "folder as its dataset."
    )


def _check(arguments: BuildDataArguments) -> None:
    """An error with everything that is wrong among the flags."""
    errors = []
    if not arguments.temperature > 0:
        errors.append(f"`--temperature` is {arguments.temperature}, but rollouts that are all equal give no pass rate.")
    if not 0 < arguments.top_p <= 1:
        errors.append(f"`--top_p` is {arguments.top_p}, but must be above 0 and at most 1.")
    for name in ("n_rollouts", "max_new_tokens", "batch_size", "concurrency", "limit", "request_timeout"):
        value = getattr(arguments, name)
        if value is not None and not value > 0:
            errors.append(f"`--{name}` is {value}, but must be positive.")
    if arguments.endpoint is not None and arguments.model_revision is not None:
        errors.append(
            f"`--model_revision` is {arguments.model_revision!r}, but with `--endpoint` the server says which revision "
            "it has loaded. Leave one out."
        )
    if (arguments.expert_endpoint is None) != (arguments.expert_model is None):
        errors.append("`--expert_endpoint` and `--expert_model` belong together; give both or neither.")
    if errors:
        raise ValueError("\n".join(errors))


def _prompts(name: str, split: str, where: str, limit: int | None = None):
    from ..data.loading import load_rows
    from ..data.prompt_sets import PromptSet

    rows = load_rows(name, split, where)
    return PromptSet(rows if limit is None else rows.select(range(min(limit, len(rows)))), where)


def _local_model(arguments: BuildDataArguments, sampling: dict):
    from ..data.rollouts import ModelRollouts
    from ._models import load_model

    name, revision = arguments.model_name_or_path, arguments.model_revision
    try:
        model, processor = load_model(name, trust_remote_code=arguments.trust_remote_code, revision=revision)
    except ValueError as error:
        raise ValueError(f"{error} Or name the --endpoint where a model of that name is served.") from error
    name = name if revision is None else f"{name}@{revision}"
    return ModelRollouts(model, processor, name, batch_size=arguments.batch_size, **sampling)


def _command(arguments: BuildDataArguments) -> str:
    defaults = {name: field.default for name, field in BuildDataArguments.__dataclass_fields__.items()}
    given = {name: value for name, value in asdict(arguments).items() if value != defaults[name]}
    return shlex.join(
        ["metis-home", "build-data", *(word for name in given for word in (f"--{name}", str(given[name])))]
    )


def _print_tasks(tasks: dict[str, dict | None]) -> None:
    from rich.console import Console
    from rich.table import Table

    columns = ("task", "always", "sometimes", "never", "malformed", "pass rate", "own", "expert's", "lost")
    table = Table(*columns, title="Prompts")
    for task, counts in tasks.items():
        if counts is not None:
            lost = counts["no_trace"] + counts["no_expert"] + counts["wrong_expert"]
            numbers = [counts[name] for name in ("always", "sometimes", "never", "malformed")]
            rate = f"{counts['mean_pass_rate']:.3f}"
            table.add_row(task, *map(str, [*numbers, rate, counts["own_traces"], counts["expert_traces"], lost]))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
