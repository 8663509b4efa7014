"""
Write one branch of a two-branch model, its router, or a folder for an engine.

A standard Qwen2.5-VL that every engine serves:

    metis-home export --model_name_or_path runs/hybrid --output_dir runs/thinking --format dense --branch thinking

A PEFT adapter for the dense model:

    metis-home export --model_name_or_path runs/hybrid --output_dir runs/thinking-lora --format peft \\
        --branch thinking --base_model runs/base

A folder that vLLM serves, with a branch per request:

    metis-home export --model_name_or_path runs/hybrid --output_dir runs/hybrid-vllm --format vllm
"""

from dataclasses import dataclass
from typing import Literal

from ._arguments import flag
from ._run import print_table, verb


LOAD = {
    "dense": "load it with Qwen2_5_VLForConditionalGeneration.from_pretrained",
    "peft": "load it with PeftModel.from_pretrained",
    "router": "load it with AutoModel.from_pretrained(..., trust_remote_code=True)",
    "vllm": "run the command in its README.md",
}


@dataclass
class ExportArguments:
    model_name_or_path: str = flag("two-branch model, folder or Hub id")
    output_dir: str = flag("folder to write; must not exist or be empty")
    format: Literal["dense", "peft", "vllm", "router"] = flag(
        "a standard Qwen2.5-VL, a PEFT adapter for one, a folder for vLLM, or a router that runs without the rest"
    )
    branch: Literal["thinking", "non_thinking", "shared"] | None = flag(
        "dense, peft: which branch; shared (dense, of lora branches): the base of both", None
    )
    base_model: str | None = flag("peft: the dense model to adapt (default: the one that was upcycled)", None)
    rank: int | None = flag("peft, of ffn branches: rank of the adapter (default: 64)", None)
    max_error: float | None = flag(
        "peft, of ffn branches: largest share of a weight's difference that may be lost (default: 0.1)", None
    )
    check_logits: bool = flag("peft, of ffn branches: load the branch and report how much its logits change", True)


@verb
def main(arguments: ExportArguments) -> None:
    """Run `metis-home export`."""
    from ..conversion import export_checkpoint

    given = {name: value for name, value in vars(arguments).items() if value is not None}
    record = export_checkpoint(given.pop("model_name_or_path"), given.pop("output_dir"), **given)
    if "energy_kept" in record:
        _print_energy(record)
    what = f"the {arguments.branch} branch" if arguments.branch else f"the {arguments.format} export"
    print(f"Wrote {what} to {arguments.output_dir}. Next: {LOAD[arguments.format]}.")


def _print_energy(record: dict) -> None:
    """How much of each weight's difference the adapter keeps, by layer."""
    layers: dict[int, dict] = {}
    for name, kept in record["energy_kept"].items():
        layer, _, projection = name.split(".layers.")[1].split(".")[:3]
        layers.setdefault(int(layer), {})[projection] = f"{kept:.4f}"
    names = ("gate_proj", "up_proj", "down_proj")
    rows = [[str(layer), *(kept.get(name, "same") for name in names)] for layer, kept in sorted(layers.items())]
    print_table(["layer", *names], rows, title=f"Energy kept by an adapter of rank {record['rank']}")
    if error := record.get("logit_error"):
        print(
            f"The branch's logits change by {error['mean']:.3g} on average and {error['max']:.3g} at most; "
            f"{error['same_token']:.1%} of the positions keep their most probable token."
        )


if __name__ == "__main__":
    raise SystemExit(main())
