"""
Build a two-branch model from a dense Qwen2.5-VL checkpoint.

Both branches from one model:

    metis-home upcycle --model_name_or_path Qwen/Qwen2.5-VL-3B-Instruct --output_dir runs/hybrid-3b

The thinking branch from a reasoning fine-tune of the same size:

    metis-home upcycle --model_name_or_path Qwen/Qwen2.5-VL-3B-Instruct \\
        --thinking_model runs/reasoner --output_dir runs/hybrid-3b

Branches from LoRA adapters for the same model, small and trainable together:

    metis-home upcycle --model_name_or_path Qwen/Qwen2.5-VL-3B-Instruct --router_layer 0 \\
        --thinking_adapter runs/reasoner-lora --output_dir runs/hybrid-3b

The other kind of branches, for a model that already has two:

    metis-home upcycle --model_name_or_path runs/hybrid-3b --branch_kind ffn --output_dir runs/hybrid-3b-merged
"""

from dataclasses import dataclass
from typing import Literal

from ._arguments import command_line, flag
from ._run import verb


@dataclass
class UpcycleArguments:
    model_name_or_path: str = flag(
        "dense Qwen2.5-VL, folder or Hub id: gives the shared weights, and branches that have no source of their own; "
        "or a two-branch model, to change its --branch_kind"
    )
    output_dir: str = flag("folder to write; must not exist or be empty")
    thinking_model: str | None = flag("folder or Hub id of the thinking branch's feed-forward weights", None)
    non_thinking_model: str | None = flag("folder or Hub id of the non-thinking branch's feed-forward weights", None)
    thinking_adapter: str | None = flag("PEFT LoRA adapter of the dense model for the thinking branch", None)
    non_thinking_adapter: str | None = flag("PEFT LoRA adapter of the dense model for the non-thinking branch", None)
    shared_from: Literal["base", "thinking", "mean"] = flag(
        "source of the shared weights: the dense model, the thinking model, or the mean of the branches", "base"
    )
    branch_kind: Literal["ffn", "lora"] | None = flag(
        "two feed-forward networks per layer (default), or one with two LoRA deltas", None
    )
    branch_rank: int | None = flag("lora: rank of the deltas", None)
    branch_alpha: float | None = flag("lora: deltas are scaled by alpha / rank", None)
    branch_projections: list[str] | None = flag(
        "lora: which projections get deltas, of gate_proj up_proj down_proj q_proj k_proj v_proj o_proj", None
    )
    router_layer: int | None = flag("number of decoder layers to share; the router reads their output", None)
    router_pooling: str | None = flag("how the router pools a prompt: mean, modality_mean or attention", None)
    router_hidden_size: int | None = flag("width of the router's hidden layer", None)
    router_examples: str | None = flag(
        "JSON lines with prompt, images (paths) and thinking, to set the router's first weights", None
    )
    dtype: Literal["float32", "bfloat16", "float16"] | None = flag(
        "data type of the written weights (default: the source's)", None
    )
    seed: int = flag("seed of the router's initial weights", 0)


@verb
def main(arguments: UpcycleArguments) -> None:
    """Run `metis-home upcycle`."""
    from ..conversion import change_branch_kind, upcycle_checkpoint
    from ..conversion.checkpoint import HYBRID, model_type_of
    from ..conversion.router_examples import read_examples

    given = {name: value for name, value in vars(arguments).items() if value is not None}
    source, output_dir = given.pop("model_name_or_path"), given.pop("output_dir")
    if model_type_of(source) == HYBRID:
        defaults = {"seed": 0, "shared_from": "base"}
        given = {name: value for name, value in given.items() if defaults.get(name) != value}
        if unfit := sorted(given.keys() - {"branch_kind", "branch_rank"}) or "branch_kind" not in given:
            raise ValueError(
                f"`model_name_or_path` is {source!r}, a two-branch model, of which only the kind of branches can be "
                f"changed: give `branch_kind` and `branch_rank`{f', not {unfit}' if isinstance(unfit, list) else ''}."
            )
        change_branch_kind(source, output_dir, **given)
        print(f"Wrote the two-branch model with {arguments.branch_kind} branches to {output_dir}.")
        return
    if "router_examples" in given:
        given["router_examples"] = read_examples(given["router_examples"])
    upcycle_checkpoint(source, output_dir, command=command_line("upcycle", arguments), **given)
    router = "the router set from the examples" if "router_examples" in given else "an untrained router"
    if not any(name.endswith(("_model", "_adapter")) for name in given):
        print("Both branches are equal. Only training makes them differ.")
    print(
        f"Wrote a two-branch model with {router} to {output_dir}. "
        f"Next: metis-home sft --model_name_or_path {output_dir}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
