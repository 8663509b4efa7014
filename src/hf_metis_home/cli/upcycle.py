"""
Make a two-branch model from a dense Qwen2.5-VL checkpoint.

Both branches from one model:

    metis-home upcycle --model_name_or_path Qwen/Qwen2.5-VL-3B-Instruct --output_dir runs/hybrid-3b

The thinking branch from a reasoning fine-tune of the same size:

    metis-home upcycle --model_name_or_path Qwen/Qwen2.5-VL-3B-Instruct \\
        --thinking_model runs/reasoner --output_dir runs/hybrid-3b

Branches from LoRA adapters over the same model, small and trainable together:

    metis-home upcycle --model_name_or_path Qwen/Qwen2.5-VL-3B-Instruct --router_layer 0 \\
        --thinking_adapter runs/reasoner-lora --output_dir runs/hybrid-3b
"""

import shlex
import sys
from dataclasses import asdict, dataclass, field
from typing import Literal

from ._run import run_verb


@dataclass
class UpcycleArguments:
    model_name_or_path: str = field(
        metadata={
            "help": "dense Qwen2.5-VL, folder or Hub id: source of the shared weights and of branches without their own"
        }
    )
    output_dir: str = field(metadata={"help": "folder to write; must not exist, or be empty"})
    thinking_model: str | None = field(
        default=None, metadata={"help": "folder or Hub id that gives the thinking branch's feed-forward weights"}
    )
    non_thinking_model: str | None = field(
        default=None, metadata={"help": "folder or Hub id that gives the non-thinking branch's feed-forward weights"}
    )
    thinking_adapter: str | None = field(
        default=None, metadata={"help": "PEFT LoRA adapter over the dense model that becomes the thinking branch"}
    )
    non_thinking_adapter: str | None = field(
        default=None, metadata={"help": "PEFT LoRA adapter over the dense model that becomes the non-thinking branch"}
    )
    shared_from: Literal["base", "thinking", "mean"] = field(
        default="base",
        metadata={"help": "source of the shared weights: the dense model, the thinking model, or the branches' mean"},
    )
    branch_kind: Literal["ffn", "lora"] | None = field(
        default=None,
        metadata={"help": "two feed-forward networks per layer (default), or one with two low-rank changes"},
    )
    branch_rank: int | None = field(default=None, metadata={"help": "lora: rank of the changes"})
    branch_alpha: float | None = field(default=None, metadata={"help": "lora: changes are scaled by alpha / rank"})
    branch_projections: list[str] | None = field(
        default=None,
        metadata={"help": "lora: what is changed, gate_proj up_proj down_proj q_proj k_proj v_proj o_proj"},
    )
    router_layer: int | None = field(
        default=None, metadata={"help": "number of decoder layers that stay shared; the router reads after them"}
    )
    router_pooling: str | None = field(
        default=None, metadata={"help": "how the router sums up a prompt: mean, modality_mean or attention"}
    )
    router_hidden_size: int | None = field(default=None, metadata={"help": "width of the router's hidden layer"})
    dtype: Literal["float32", "bfloat16", "float16"] | None = field(
        default=None, metadata={"help": "type of the written weights; the source's where it is not given"}
    )
    seed: int = field(default=0, metadata={"help": "seed of the router's initial weights"})


def main(argv: list[str] | None = None) -> int:
    """`metis-home upcycle`. Takes the flags, gives the exit code."""
    return run_verb("upcycle", UpcycleArguments, _upcycle, argv, "Make a two-branch model from a dense Qwen2.5-VL.")


def _upcycle(arguments: UpcycleArguments) -> None:
    from ..conversion import upcycle_checkpoint

    given = {name: value for name, value in asdict(arguments).items() if value is not None}
    flags = [word for name, value in given.items() for word in (f"--{name}", *map(str, _values(value)))]
    source, output_dir = given.pop("model_name_or_path"), given.pop("output_dir")
    upcycle_checkpoint(source, output_dir, command=shlex.join(["metis-home", "upcycle", *flags]), **given)
    if not any(name.endswith(("_model", "_adapter")) for name in given):
        print("Both branches are equal, which is a starting point and no more: only training makes two modes of them.")
    print(
        f"Wrote a two-branch model to {output_dir}, its router untrained. "
        "Next: train it with MetisHomeSFTTrainer (docs/quickstart.md)."
    )


def _values(value) -> list:
    return value if isinstance(value, list) else [value]


if __name__ == "__main__":
    sys.exit(main())
