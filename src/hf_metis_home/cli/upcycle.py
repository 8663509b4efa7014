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

Branches of the other kind, for a model that has two already:

    metis-home upcycle --model_name_or_path runs/hybrid-3b --branch_kind ffn --output_dir runs/hybrid-3b-merged
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
            "help": "dense Qwen2.5-VL, folder or Hub id: source of the shared weights and of branches without their "
            "own; or a two-branch model, to change its --branch_kind"
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
    router_examples: str | None = field(
        default=None,
        metadata={
            "help": "JSON lines with prompt, images (paths) and thinking, which give the router its first weights"
        },
    )
    dtype: Literal["float32", "bfloat16", "float16"] | None = field(
        default=None, metadata={"help": "type of the written weights; the source's where it is not given"}
    )
    seed: int = field(default=0, metadata={"help": "seed of the router's initial weights"})


def main(argv: list[str] | None = None) -> int:
    """`metis-home upcycle`. Takes the flags, gives the exit code."""
    return run_verb("upcycle", UpcycleArguments, _upcycle, argv, __doc__)


def _upcycle(arguments: UpcycleArguments) -> None:
    from ..conversion import change_branch_kind, upcycle_checkpoint
    from ..conversion.checkpoint import HYBRID, model_type_of
    from ..conversion.router_examples import read_examples

    given = {name: value for name, value in asdict(arguments).items() if value is not None}
    flags = [word for name, value in given.items() for word in (f"--{name}", *map(str, _values(value)))]
    source, output_dir = given.pop("model_name_or_path"), given.pop("output_dir")
    if model_type_of(source) == HYBRID:
        defaults = {"seed": 0, "shared_from": "base"}
        given = {name: value for name, value in given.items() if defaults.get(name) != value}
        if unfit := sorted(given.keys() - {"branch_kind", "branch_rank"}) or "branch_kind" not in given:
            raise ValueError(
                f"`model_name_or_path` is {source!r}, a two-branch model. Of one only the kind of the branches can be "
                f"changed, with `branch_kind` and `branch_rank`{f', not {unfit}' if isinstance(unfit, list) else ''}."
            )
        change_branch_kind(source, output_dir, **given)
        print(f"Wrote the two-branch model with branches of the other kind to {output_dir}. Next: use it as before.")
        return
    if "router_examples" in given:
        given["router_examples"] = read_examples(given["router_examples"])
    upcycle_checkpoint(source, output_dir, command=shlex.join(["metis-home", "upcycle", *flags]), **given)
    router = "set from the examples" if "router_examples" in given else "untrained"
    if not any(name.endswith(("_model", "_adapter")) for name in given):
        print("Both branches are equal, which is a starting point and no more: only training makes two modes of them.")
    print(
        f"Wrote a two-branch model to {output_dir}, its router {router}. "
        "Next: train it with MetisHomeSFTTrainer (docs/quickstart.md)."
    )


def _values(value) -> list:
    return value if isinstance(value, list) else [value]


if __name__ == "__main__":
    sys.exit(main())
