"""
Estimate what a model will need before anything is downloaded: parameters, memory, disk.

The two-branch models that can be built from a dense one:

    metis-home estimate --model_name_or_path Qwen/Qwen2.5-VL-7B-Instruct --gpus 8

One of them, with its options, for many long rows:

    metis-home estimate --model_name_or_path Qwen/Qwen2.5-VL-7B-Instruct --branch_kind lora --branch_rank 64 \\
        --tokens 16384 --batch 32
"""

import json
from dataclasses import dataclass
from typing import Literal

from ._arguments import flag
from ._run import print_table, verb


@dataclass
class EstimateArguments:
    model_name_or_path: str = flag("dense or two-branch model: folder, config.json or Hub id; only the config is read")
    branch_kind: Literal["ffn", "lora"] | None = flag("of a dense model: branches to plan for (default: both)", None)
    branch_rank: int | None = flag("lora: rank of the deltas (default: 16)", None)
    branch_projections: list[str] | None = flag(
        "lora: which projections get deltas, of gate_proj up_proj down_proj q_proj k_proj v_proj o_proj", None
    )
    router_layer: int | None = flag("number of decoder layers that stay shared", None)
    gpus: int = flag("GPUs of an FSDP run", 8)
    tokens: int = flag("KV cache: tokens per row, with images and answer", 8192)
    batch: int = flag("KV cache: rows", 1)
    json: bool = flag("print JSON, in parameters and bytes", False)


@verb
def main(arguments: EstimateArguments) -> None:
    """Run `metis-home estimate`."""
    from ..conversion import estimate_memory

    given = dict(vars(arguments))
    as_json = given.pop("json")
    estimate = estimate_memory(given.pop("model_name_or_path"), **given)
    if as_json:
        print(json.dumps(estimate, indent=2))
    else:
        _print_estimate(estimate)


def _print_estimate(estimate: dict) -> None:
    from ..conversion.estimate import FORMULA

    models = estimate["models"]
    rows = []

    def section(title: str):
        rows.extend([[], [f"[bold]{title}[/bold]"]])

    def row(label: str, cell):
        rows.append([f"  {label}", *map(cell, models.values())])

    section("Parameters")
    for name, label in {"stored": "stored", "branch": "one branch", "router": "router"}.items():
        row(label, lambda model, name=name: _count(model["parameters"][name]))
    row("active per answer", lambda model: _count(model["parameters"]["active"]))
    section("Inference, GB: bf16, router fp32")
    row("weights", lambda model: _gb(model["inference_bytes"]["weights"]))
    row("weights, only_branch", lambda model: _gb(model["inference_bytes"]["one_branch"]))
    size = f"KV cache, {estimate['tokens']} tokens x {estimate['batch']}"
    row(size, lambda model: _gb(model["inference_bytes"]["kv_cache"]))
    section(f"Training, GB: 1 GPU / each of {estimate['gpus']}")
    runs = {"full": "all parameters", "one_branch": "one branch", "low_rank": f"rank {estimate['low_rank']} and router"}
    for name, label in runs.items():
        row(label, lambda model, name=name: _training(model["training_bytes"][name]))
    section("Disk, GB")
    row("checkpoint in bf16", lambda model: _gb(model["checkpoint_bytes"]))
    print_table(["", *models], rows[1:])
    print(f"\n{FORMULA}")


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value / 1e9:.3f} B" if value >= 1e8 else f"{value / 1e6:.3f} M"


def _gb(value: int | None) -> str:
    return "–" if value is None else f"{value / 1e9:.2f}"


def _training(value: dict | None) -> str:
    return "–" if value is None else f"{value['one_gpu'] / 1e9:.1f} / {value['per_gpu'] / 1e9:.1f}"


if __name__ == "__main__":
    raise SystemExit(main())
