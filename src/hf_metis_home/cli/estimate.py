"""
Print what a model will need, before anything is downloaded: parameters, memory, disk.

The two-branch models that can be made from a dense one:

    metis-home estimate --model_name_or_path Qwen/Qwen2.5-VL-7B-Instruct --gpus 8

One of them, with its options, for many long rows:

    metis-home estimate --model_name_or_path Qwen/Qwen2.5-VL-7B-Instruct --branch_kind lora --branch_rank 64 \\
        --tokens 16384 --batch 32
"""

import json
import sys
from dataclasses import asdict, dataclass, field
from typing import Literal

from ._run import run_verb


@dataclass
class EstimateArguments:
    model_name_or_path: str = field(
        metadata={"help": "dense or two-branch model: folder, config.json or Hub id; only the configuration is read"}
    )
    branch_kind: Literal["ffn", "lora"] | None = field(
        default=None, metadata={"help": "of a dense model: the kind of branches to plan for; both by default"}
    )
    branch_rank: int | None = field(default=None, metadata={"help": "lora: rank of the changes (default: 16)"})
    branch_projections: list[str] | None = field(
        default=None,
        metadata={"help": "lora: what is changed, gate_proj up_proj down_proj q_proj k_proj v_proj o_proj"},
    )
    router_layer: int | None = field(default=None, metadata={"help": "number of decoder layers that stay shared"})
    gpus: int = field(default=8, metadata={"help": "GPUs of an FSDP run"})
    tokens: int = field(default=8192, metadata={"help": "KV cache: tokens of a row, with images and answer"})
    batch: int = field(default=1, metadata={"help": "KV cache: rows"})
    json: bool = field(default=False, metadata={"help": "print JSON, in parameters and bytes"})


def main(argv: list[str] | None = None) -> int:
    """`metis-home estimate`. Takes the flags, gives the exit code."""
    return run_verb("estimate", EstimateArguments, _estimate, argv, __doc__)


def _estimate(arguments: EstimateArguments) -> None:
    from ..conversion import estimate_memory

    given = asdict(arguments)
    as_json = given.pop("json")
    found = estimate_memory(given.pop("model_name_or_path"), **given)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        _print_table(found)


def _print_table(found: dict) -> None:
    from rich.console import Console
    from rich.table import Table

    from ..conversion.estimate import FORMULA

    models = found["models"]
    table = Table("", *models, box=None, pad_edge=False, title_justify="left", header_style="bold")
    for column in table.columns[1:]:
        column.justify = "right"

    def section(title: str):
        if table.rows:
            table.add_row()
        table.add_row(f"[bold]{title}[/bold]")

    def row(label: str, cell):
        table.add_row(f"  {label}", *map(cell, models.values()))

    section("Parameters")
    for name, label in {"stored": "stored", "branch": "one branch", "router": "router"}.items():
        row(label, lambda model, name=name: _count(model["parameters"][name]))
    row("active per answer", lambda model: _count(model["parameters"]["active"]))
    section("Inference, GB: bf16, router fp32")
    row("weights", lambda model: _gb(model["inference_bytes"]["weights"]))
    row("weights, only_branch", lambda model: _gb(model["inference_bytes"]["one_branch"]))
    size = f"KV cache, {found['tokens']} tokens x {found['batch']}"
    row(size, lambda model: _gb(model["inference_bytes"]["kv_cache"]))
    section(f"Training, GB: 1 GPU / each of {found['gpus']}")
    runs = {"full": "all parameters", "one_branch": "one branch", "low_rank": f"rank {found['low_rank']}, and router"}
    for name, label in runs.items():
        row(label, lambda model, name=name: _training(model["training_bytes"][name]))
    section("Disk, GB")
    row("checkpoint in bf16", lambda model: _gb(model["checkpoint_bytes"]))
    console = Console(highlight=False)
    console.print(table)
    print(f"\n{FORMULA}")


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value / 1e9:.3f} B" if value >= 1e8 else f"{value / 1e6:.3f} M"


def _gb(value: int | None) -> str:
    return "–" if value is None else f"{value / 1e9:.2f}"


def _training(value: dict | None) -> str:
    return "–" if value is None else f"{value['one_gpu'] / 1e9:.1f} / {value['per_gpu'] / 1e9:.1f}"


if __name__ == "__main__":
    sys.exit(main())
