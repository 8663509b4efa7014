"""
Train only the router of a two-branch model, in seconds.

On the column `thinking` of the rows:

    metis-home fit-router --model_name_or_path runs/hybrid --dataset rows.parquet --output_dir runs/hybrid-routed

On the outcomes of both branches, with a right answer worth 1000 tokens:

    metis-home fit-router --model_name_or_path runs/hybrid --dataset rows.parquet --outcomes outcomes.parquet \\
        --token_cost 0.001 --output_dir runs/hybrid-routed
"""

import shlex
from dataclasses import dataclass

from .._extras import require_extra
from .._folders import check_output_dir
from .._progress import progress
from ._arguments import PositiveFloat, PositiveInt, command_line, flag
from ._run import print_table, verb


@dataclass
class FitRouterArguments:
    model_name_or_path: str = flag("two-branch model, folder or Hub id")
    dataset: str = flag(
        "rows with prompt, images and thinking (true, false or a share): a parquet or JSON-lines file, a folder from "
        "save_to_disk or for load_dataset, or a Hub id"
    )
    output_dir: str = flag("folder to write; must not exist or be empty")
    dataset_split: str = flag("split of --dataset", "train")
    outcomes: str | None = flag("what `metis-home eval` wrote on these rows, to learn from instead of labels", None)
    token_cost: float = flag("with --outcomes: cost of a token in right answers, e.g. 0.001", 0.0)
    steps: PositiveInt = flag("steps of AdamW; the weights of the best step are kept", 1000)
    learning_rate: PositiveFloat = flag("learning rate of AdamW", 3e-3)
    batch_size: PositiveInt = flag("rows per step", 64)
    validation_fraction: float = flag("share of the questions to hold out, to choose the step and for the report", 0.2)
    seed: int = flag("seed of the split and the order of rows", 0)


@verb
def main(arguments: FitRouterArguments) -> None:
    """Run `metis-home fit-router`."""
    require_extra("train", "trl", "datasets")
    from ..data.loading import load_rows
    from ..evaluation.outcomes_folder import read_outcomes_folder
    from ..trainers.router_checkpoint import fit_router_checkpoint

    given = dict(vars(arguments))
    source, output_dir = given.pop("model_name_or_path"), check_output_dir(given.pop("output_dir"))
    if arguments.outcomes is not None:
        given["outcomes"] = read_outcomes_folder(arguments.outcomes).outcomes
    rows = load_rows(given.pop("dataset"), given.pop("dataset_split"))
    with progress("Reading prompts", total=len(rows)) as advance:
        command = command_line("fit-router", arguments)
        fit = fit_router_checkpoint(source, output_dir, rows, command=command, progress=advance, **given)
    _print_fit(fit, by_outcomes=arguments.outcomes is not None)
    print(
        f"Wrote the model with its new router to {output_dir} (figures: {output_dir}/fit_router.json). "
        f"Next: metis-home validate --model_name_or_path {shlex.quote(str(output_dir))}"
    )


def _print_fit(fit, by_outcomes: bool) -> None:
    from ..evaluation.policies import OURS

    rows = []
    for name in ("before", "fitted", "calibrated"):
        score = getattr(fit, name)
        figures = [f"{value:.3f}" for value in (score.accuracy, score.loss, score.ece)]
        rows.append([name, *figures, f"{score.thinking_ratio:.1%}"])
    weighted = ", weighted by what is at stake in each" if by_outcomes else ""
    title = f"On {fit.held_out_rows} held-out rows{weighted}"
    print_table(["router", "accuracy", "loss", "ECE", "thinking"], rows, title)
    titles = {policy.name: policy.title.lower() for policy in OURS}
    rows = []
    for name, policy in fit.policies.items():
        cost = [f"{policy['tokens']:.1f}", f"{policy['utility']:.3f}"] if by_outcomes else []
        rows.append([titles.get(name, name), f"{policy['accuracy']:.3f}", *cost, f"{policy['thinking_ratio']:.1%}"])
    columns = ["right answers", "tokens", "utility"] if by_outcomes else ["agrees with label"]
    print_table(["policy", *columns, "thinking"], rows)
    print(f"Trained on {fit.fitted_rows} rows; kept step {fit.step}; calibration scaled the scores by {fit.scale:.2f}.")
    if fit.skipped_rows:
        print(f"Skipped {fit.skipped_rows} rows without an outcome of both branches.")
    if fit.step == 0:
        print("No step was better on the held-out rows than the router before, so it was only calibrated.")
    if fit.threshold != 0.5:
        print(f"The scores are for the model's thinking_threshold {fit.threshold:.4g}; the router is trained for 0.5.")


if __name__ == "__main__":
    raise SystemExit(main())
