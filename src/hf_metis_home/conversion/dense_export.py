"""One branch of a two-branch model as a stock Qwen2.5-VL."""

from pathlib import Path

from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from ..modeling import MetisHomeConfig
from ..modeling.configuration_metis_home import BRANCHES
from .checkpoint import OF_THE_CLASS, Checkpoint, LazyTensor, legacy_name
from .hub_folder import write_model
from .low_rank import add_delta, branch_deltas


def write_dense(hybrid: Checkpoint, branch: str, upcycled: dict, folder: Path) -> None:
    """Write one branch (or `"shared"`) in the key layout of the model that was upcycled; `upcycled` is its record."""
    config, tensors = dense_config(hybrid.config), dense_tensors(hybrid, branch)
    if upcycled.get("stored_head") and config.tie_word_embeddings:
        tensors["lm_head.weight"] = tensors["model.language_model.embed_tokens.weight"]
    if upcycled.get("layout", "legacy") == "legacy":
        tensors = {legacy_name(name): tensor for name, tensor in tensors.items()}
    write_model(folder, tensors, config, hybrid, Qwen2_5_VLForConditionalGeneration)


def dense_config(config: MetisHomeConfig) -> Qwen2_5_VLConfig:
    """The configuration of a branch as a dense model: a hybrid's without the fields that only hybrids have."""
    own = set(MetisHomeConfig().to_dict()) - set(Qwen2_5_VLConfig().to_dict()) | OF_THE_CLASS
    fields = {name: value for name, value in config.to_dict().items() if name not in own}
    return Qwen2_5_VLConfig(**fields)


def dense_tensors(hybrid: Checkpoint, branch: str) -> dict[str, LazyTensor]:
    """The tensors of one branch by their dense v5 names. `"shared"`: those of a `"lora"` hybrid without any delta."""
    tensors = {}
    for name, tensor in hybrid.tensors.items():
        if ".router." in name or ".lora_" in name or any(f".{b}." in name for b in BRANCHES if b != branch):
            continue
        tensors[name.replace(f".mlp.{branch}.", ".mlp.")] = tensor
    if hybrid.config.branch_kind == "lora" and branch != "shared":
        for module, delta in branch_deltas(hybrid, branch).items():
            tensors[f"{module}.weight"] = add_delta(tensors[f"{module}.weight"], delta)
    return tensors
