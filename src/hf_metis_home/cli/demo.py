"""
Train and evaluate the whole method on a model of about a million parameters and small real data, on a CPU.

The demo, in minutes:

    metis-home demo

Every stage of the method from the same base models, with Stage-RL and data by pass rate, and what each stage gains:

    metis-home demo --stages all

Check the installation, in under a minute; the figures mean nothing:

    metis-home demo --preset smoke --output_dir runs/smoke
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ._arguments import flag
from ._run import print_sentences, print_table, verb


@dataclass
class DemoArguments:
    preset: Literal["smoke", "small", "full"] = flag(
        "smoke: checks the installation; small: one seed, minutes; full: three seeds", "small"
    )
    stages: Literal["sft", "all"] = flag(
        "sft: a base model, its hybrid and the controls; all: also Stage-RL, data by pass rate and a router trained "
        "on outcomes, from the same base model",
        "sft",
    )
    seed: int = flag("seed of data and training; the first of three with --preset full", 0)
    output_dir: str | None = flag(
        "folder to write (default: runs/demo, or the first of runs/demo-2, ... that does not exist)", None
    )


@verb
def main(arguments: DemoArguments) -> None:
    """Run `metis-home demo`."""
    from .._extras import require_extra

    require_extra("demo", "trl", "datasets", "math_verify", "easy_vqa", "sklearn", "matplotlib")
    default = Path("runs/method" if arguments.stages == "all" else "runs/demo")
    output_dir = _free_folder(default) if arguments.output_dir is None else Path(arguments.output_dir)
    if arguments.stages == "all":
        _method(arguments, output_dir)
        return
    from ..demo.comparison import run_demo

    results = run_demo(preset=arguments.preset, seed=arguments.seed, output_dir=output_dir)
    print()
    print_sentences(results["statement"])
    print(
        f"\nWrote {output_dir}: report.html, results.json, hybrid/ (a Hub folder with two branches), base/ (dense), "
        f"digits.png (an image to ask about). Next: open {output_dir / 'report.html'} in a browser."
    )


def _method(arguments: DemoArguments, output_dir: Path) -> None:
    from ..demo.tables import COLUMNS, INTERVALS, TABLES, rows_of
    from ..demo.whole_method import run_method_demo

    results = run_method_demo(preset=arguments.preset, seed=arguments.seed, output_dir=output_dir)
    for name, (title, _) in TABLES.items():
        print_table([title, *COLUMNS.values(), "thinking", "tokens"], rows_of(results, name))
        print()
    if arguments.preset == "smoke":
        print("A smoke run: every stage ran for a few steps only, so the figures mean nothing.")
    else:
        print("Accuracy in percent, thinking ratio, mean tokens per answer; a model of about a million parameters.")
        print(INTERVALS)
    print(
        f"Wrote {output_dir}: method.json, method.md, and per seed base/, hybrid/ and method/ (stage_rl/, data/, "
        "hybrid/). Next: docs/recipes.md, for a model of a useful size."
    )


def _free_folder(first: Path) -> Path:
    """`first`, or `first` with the lowest number for which no folder exists."""
    folder, number = first, 1
    while folder.exists():
        number += 1
        folder = first.with_name(f"{first.name}-{number}")
    return folder


if __name__ == "__main__":
    raise SystemExit(main())
