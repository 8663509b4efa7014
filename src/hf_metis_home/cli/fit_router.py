"""
Fit the router of a two-branch model, alone and in seconds.

To the column `thinking` of the rows:

    metis-home fit-router --model_name_or_path runs/hybrid --dataset rows.parquet --output_dir runs/hybrid-routed

To what both branches made of them, where a right answer is worth 1000 tokens:

    metis-home fit-router --model_name_or_path runs/hybrid --dataset rows.parquet --outcomes outcomes.parquet \\
        --token_cost 0.001 --output_dir runs/hybrid-routed
"""

import shlex
import sys
from dataclasses import asdict, dataclass, field

from ._run import run_verb


@dataclass
class FitRouterArguments:
    model_name_or_path: str = field(metadata={"help": "two-branch model, folder or Hub id"})
    dataset: str = field(
        metadata={
            "help": "rows with prompt, images and thinking (true, false or a share): a parquet or JSON-lines file, a "
            "folder that save_to_disk wrote or load_dataset reads, or a Hub id"
        }
    )
    output_dir: str = field(metadata={"help": "folder to write; must not exist, or be empty"})
    dataset_split: str = field(default="train", metadata={"help": "split of --dataset, where there are several"})
    outcomes: str | None = field(
        default=None,
        metadata={"help": "parquet of metis-home eval on these rows, to learn from in place of the column thinking"},
    )
    token_cost: float = field(
        default=0.0, metadata={"help": "outcomes: what a token costs in right answers, e.g. 0.001"}
    )
    steps: int = field(default=1000, metadata={"help": "steps of AdamW; the weights of the best are kept"})
    learning_rate: float = field(default=3e-3, metadata={"help": "AdamW's"})
    batch_size: int = field(default=64, metadata={"help": "rows per step"})
    validation_fraction: float = field(
        default=0.2, metadata={"help": "share of the questions held out, for the choice of the step and the report"}
    )
    seed: int = field(default=0, metadata={"help": "seed of split and order"})


def main(argv: list[str] | None = None) -> int:
    """`metis-home fit-router`. Takes the flags, gives the exit code."""
    return run_verb("fit-router", FitRouterArguments, _fit_router, argv, __doc__)


def _fit_router(arguments: FitRouterArguments) -> None:
    from .._extras import require_extra
    from .._folders import check_output_dir
    from .._progress import progress

    require_extra("train", "trl", "datasets")
    from ..data.loading import load_rows
    from ..evaluation.outcomes import read_outcomes
    from ..trainers.router_checkpoint import fit_router_checkpoint

    given = {name: value for name, value in asdict(arguments).items() if value is not None}
    flags = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    source, output_dir = given.pop("model_name_or_path"), check_output_dir(given.pop("output_dir"))
    if "outcomes" in given:
        given["outcomes"] = read_outcomes(given["outcomes"])
    rows = load_rows(given.pop("dataset"), given.pop("dataset_split"))
    command = shlex.join(["metis-home", "fit-router", *flags])
    with progress("Reading prompts", total=len(rows)) as advance:
        fit = fit_router_checkpoint(source, output_dir, rows, command=command, progress=advance, **given)
    _print_fit(fit, by_outcomes=arguments.outcomes is not None)
    print(
        f"Wrote the model with its new router to {output_dir}, figures in fit_router.json. "
        f"Next: metis-home validate --model_name_or_path {shlex.quote(str(output_dir))}."
    )


def _print_fit(fit, by_outcomes: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from ..evaluation.policies import OURS

    console = Console(highlight=False)
    stakes = ", weighted by what each is worth" if by_outcomes else ""
    table = Table(
        "router", "accuracy", "loss", "ECE", "thinking", title=f"On {fit.held_out_rows} rows held out{stakes}"
    )
    for name in ("before", "fitted", "calibrated"):
        score = getattr(fit, name)
        table.add_row(
            name, f"{score.accuracy:.3f}", f"{score.loss:.3f}", f"{score.ece:.3f}", f"{score.thinking_ratio:.1%}"
        )
    console.print(table)
    titles = {policy.name: policy.title.lower() for policy in OURS}
    worth = "right answers" if by_outcomes else "agrees with label"
    table = Table("policy", worth, *(["tokens", "utility"] if by_outcomes else []), "thinking")
    for name, policy in fit.policies.items():
        cost = [f"{policy['tokens']:.1f}", f"{policy['utility']:.3f}"] if by_outcomes else []
        table.add_row(titles.get(name, name), f"{policy['accuracy']:.3f}", *cost, f"{policy['thinking_ratio']:.1%}")
    console.print(table)
    print(f"Fitted on {fit.fitted_rows} rows; kept step {fit.step}; scores times {fit.scale:.2f} by calibration.")
    if fit.skipped_rows:
        print(f"Left out {fit.skipped_rows} rows that have no outcome of both branches.")
    if fit.step == 0:
        print("No step was better on the held-out rows than the router that there was: it was calibrated only.")
    if fit.threshold != 0.5:
        print(
            f"The model's thinking_threshold is {fit.threshold}, at which it is scored here; the router is fitted to "
            "decide at 0.5."
        )


if __name__ == "__main__":
    sys.exit(main())
