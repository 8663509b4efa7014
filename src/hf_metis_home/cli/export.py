"""
Write one branch of a two-branch model, its router, or what an engine serves, as a folder of its own.

A stock Qwen2.5-VL that every engine serves:

    metis-home export --model_name_or_path runs/hybrid --output_dir runs/thinking --format dense --branch thinking

A PEFT adapter over the dense model:

    metis-home export --model_name_or_path runs/hybrid --output_dir runs/thinking-lora --format peft \\
        --branch thinking --base_model runs/base

A folder that vLLM serves, with a branch per request:

    metis-home export --model_name_or_path runs/hybrid --output_dir runs/hybrid-vllm --format vllm
"""

import sys
from dataclasses import asdict, dataclass, field
from typing import Literal

from ._run import run_verb


@dataclass
class ExportArguments:
    model_name_or_path: str = field(metadata={"help": "two-branch model, folder or Hub id"})
    output_dir: str = field(metadata={"help": "folder to write; must not exist, or be empty"})
    format: Literal["dense", "peft", "vllm", "router"] = field(
        metadata={
            "help": "a stock Qwen2.5-VL, a PEFT adapter over one, all that vLLM serves, or the router with what it "
            "needs to run alone"
        }
    )
    branch: Literal["thinking", "non_thinking", "shared"] | None = field(
        default=None,
        metadata={"help": "dense, peft: which branch; shared: the base of both branches of the lora kind (dense)"},
    )
    base_model: str | None = field(
        default=None,
        metadata={"help": "peft: the dense model that the adapter changes; the one that was upcycled by default"},
    )
    rank: int | None = field(default=None, metadata={"help": "peft of ffn branches: rank of the adapter (default: 64)"})
    max_error: float | None = field(
        default=None,
        metadata={"help": "peft of ffn branches: largest share of a weight's difference that is lost (default: 0.1)"},
    )
    check_logits: bool = field(
        default=True, metadata={"help": "peft of ffn branches: load the branch and report how far its logits move"}
    )


def main(argv: list[str] | None = None) -> int:
    """`metis-home export`. Takes the flags, gives the exit code."""
    return run_verb("export", ExportArguments, _export, argv, __doc__)


def _export(arguments: ExportArguments) -> None:
    from ..conversion import export_checkpoint

    given = {name: value for name, value in asdict(arguments).items() if value is not None}
    record = export_checkpoint(given.pop("model_name_or_path"), given.pop("output_dir"), **given)
    if "energy_kept" in record:
        _print_energy(record)
    load = {
        "dense": "Qwen2_5_VLForConditionalGeneration.from_pretrained",
        "peft": "PeftModel.from_pretrained",
        "router": "AutoModel.from_pretrained(..., trust_remote_code=True)",
    }
    if arguments.format == "vllm":
        print(f"Wrote all that vLLM serves to {arguments.output_dir}. Next: the command in its README.md.")
        return
    what = f"the {arguments.branch} branch" if arguments.branch else "the router"
    print(f"Wrote {what} to {arguments.output_dir}. Next: load it with {load[arguments.format]}.")


def _print_energy(record: dict) -> None:
    """Per layer, the least of its weights."""
    from rich.console import Console
    from rich.table import Table

    table = Table("layer", "energy kept, gate", "up", "down", title=f"Adapter of rank {record['rank']}")
    layers = {}
    for name, kept in record["energy_kept"].items():
        layer, _, projection = name.split(".layers.")[1].split(".")[:3]
        layers.setdefault(int(layer), {})[projection] = f"{kept:.4f}"
    for layer, kept in sorted(layers.items()):
        table.add_row(str(layer), *(kept.get(f"{name}_proj", "same") for name in ("gate", "up", "down")))
    Console().print(table)
    if error := record.get("logit_error"):
        print(
            f"The logits of the branch move by {error['mean']:.3g} on average, {error['max']:.3g} at most; "
            f"{error['same_token']:.1%} of the positions keep their most probable token."
        )


if __name__ == "__main__":
    sys.exit(main())
