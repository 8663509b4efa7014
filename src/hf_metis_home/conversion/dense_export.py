"""One branch of a two-branch model as a stock Qwen2.5-VL. Tensors go from file to file, one at a time."""

from pathlib import Path

from transformers import AutoProcessor, Qwen2_5_VLConfig

from ..modeling import MetisHomeConfig
from ..modeling.configuration_metis_home import BRANCHES
from .adapters import add_change
from .checkpoint import Checkpoint, LazyTensor, legacy_name
from .hub_folder import copy_generation_config
from .peft_export import adapter_from_low_rank
from .tensor_writer import check_space, shard_limit, write_shards


def write_dense(hybrid: Checkpoint, branch: str, made: dict, staging: Path) -> None:
    """One branch, or the shared network, as a stock Qwen2.5-VL in a folder."""
    config = dense_config(hybrid.config)
    tensors = dense_tensors(hybrid, branch)
    if made.get("stored_head") and config.tie_word_embeddings:
        tensors["lm_head.weight"] = tensors["model.language_model.embed_tokens.weight"]
    if made.get("layout", "legacy") == "legacy":
        tensors = {legacy_name(name): tensor for name, tensor in tensors.items()}
    check_space(staging.parent, sum(tensor.nbytes for tensor in tensors.values()))
    write_shards(staging, tensors, shard_limit(hybrid.files))
    config.save_pretrained(staging)
    copy_generation_config(hybrid.folder, staging)
    AutoProcessor.from_pretrained(hybrid.folder).save_pretrained(staging)


def dense_config(config: MetisHomeConfig) -> Qwen2_5_VLConfig:
    """The configuration of the dense model that one branch is."""
    own = set(MetisHomeConfig().to_dict()) - set(Qwen2_5_VLConfig().to_dict())
    fields = {name: value for name, value in config.to_dict().items() if name not in own}
    plain = set(Qwen2_5_VLConfig().text_config.to_dict())
    fields["text_config"] = {name: value for name, value in fields["text_config"].items() if name in plain}
    for part in (fields, fields["text_config"]):
        part.pop("model_type", None)
    for name in ("architectures", "auto_map", "transformers_version"):
        fields.pop(name, None)
    return Qwen2_5_VLConfig(**fields, architectures=["Qwen2_5_VLForConditionalGeneration"])


def dense_tensors(hybrid: Checkpoint, branch: str) -> dict[str, LazyTensor]:
    """One branch of a two-branch checkpoint under the v5 names of a dense model. `"shared"`: without any change."""
    text = hybrid.config.text_config
    tensors = {}
    for name, tensor in hybrid.tensors.items():
        if ".router." in name or any(f".{other}." in name for other in BRANCHES if other != branch):
            continue
        if ".lora_" not in name:
            tensors[name.replace(f".mlp.{branch}.", ".mlp.")] = tensor
    if text.branch_kind == "lora" and branch != "shared":
        for module, change in adapter_from_low_rank(hybrid, branch).items():
            tensors[f"{module}.weight"] = add_change(tensors[f"{module}.weight"], change)
    return tensors
