"""
Train and report the whole method on a model of about a million parameters and small real data, on a CPU.

The real thing, minutes:

    metis-home demo

And from the same bases every stage of the method, Stage-RL and data by pass rate included, with what each gains:

    metis-home demo --stages all

Whether everything is in place, under a minute; its figures mean nothing:

    metis-home demo --preset smoke --output_dir runs/smoke
"""

import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ._run import run_verb


@dataclass
class DemoArguments:
    preset: Literal["smoke", "small", "full"] = field(
        default="small",
        metadata={"help": "smoke: plumbing only; small: one seed, minutes; full: three seeds"},
    )
    stages: Literal["sft", "all"] = field(
        default="sft",
        metadata={
            "help": "sft: a base, its hybrid and the controls; all: and from the same base the whole method, with "
            "Stage-RL, data by pass rate and a router on outcomes"
        },
    )
    seed: int = field(default=0, metadata={"help": "seed of data and training; the first of three with preset full"})
    output_dir: str | None = field(
        default=None,
        metadata={"help": "folder to write; by default the first new one of runs/demo, runs/demo-2, ..."},
    )


def main(argv: list[str] | None = None) -> int:
    """`metis-home demo`. Takes the flags, gives the exit code."""
    return run_verb("demo", DemoArguments, _demo, argv, __doc__)


def _demo(arguments: DemoArguments) -> None:
    from .._extras import require_extra

    require_extra("demo", "trl", "datasets", "math_verify", "easy_vqa", "sklearn", "matplotlib")
    if arguments.stages == "all":
        _method(arguments)
        return
    from ..demo.comparison import run_demo

    output_dir = _free_folder(Path("runs/demo")) if arguments.output_dir is None else Path(arguments.output_dir)
    results = run_demo(preset=arguments.preset, seed=arguments.seed, output_dir=output_dir)
    print()
    for sentence in results["statement"]:
        print(textwrap.fill(sentence, 100, initial_indent="- ", subsequent_indent="  "))
    print(
        f"\nWrote {output_dir}: report.html, results.json, hybrid/ (a Hub folder with two branches), base/ (dense), "
        f"digits.png (a picture to ask about). Next: open {output_dir / 'report.html'} in a browser."
    )


def _method(arguments: DemoArguments) -> None:
    from rich.console import Console
    from rich.table import Table

    from ..demo.tables import COLUMNS, INTERVALS, TABLES, rows_of
    from ..demo.whole_method import run_method_demo

    output_dir = _free_folder(Path("runs/method")) if arguments.output_dir is None else Path(arguments.output_dir)
    results = run_method_demo(preset=arguments.preset, seed=arguments.seed, output_dir=output_dir)
    console = Console(highlight=False, width=max(Console().width, 160))
    for name, (title, _) in TABLES.items():
        table = Table(title, *COLUMNS.values(), "thinking", "tokens", box=None, pad_edge=False, header_style="bold")
        for column in table.columns[1:]:
            column.justify = "right"
        for row in rows_of(results, name):
            table.add_row(*row)
        console.print(table)
        console.print()
    if arguments.preset == "smoke":
        print("A smoke run: every stage ran for a few steps, and the figures mean nothing.")
    else:
        print("Percent right, share of thinking, mean tokens of an answer; a model of about a million parameters.")
        print(INTERVALS)
    print(
        f"Wrote {output_dir}: method.json, method.md, and per seed base/, hybrid/ and method/ (stage_rl/, data/, "
        "hybrid/). Next: docs/recipes.md, for a model of useful size."
    )


def _free_folder(first: Path) -> Path:
    """`first`, or `first` with the lowest number that makes it new."""
    folder, number = first, 1
    while folder.exists():
        number += 1
        folder = first.with_name(f"{first.name}-{number}")
    return folder


if __name__ == "__main__":
    sys.exit(main())
