"""
A hybrid as vLLM serves it: one model, an adapter for each branch, and a request's adapter is its branch.

Branches of the `"lora"` kind are adapters already, over the shared network. Whole networks go into one model that has
both, and two adapters, the same for every model, that do nothing but point at one of them (see
`modeling/gated_metis_home.py`).
"""

import json
import shlex
from pathlib import Path

import torch
from transformers import AutoProcessor
from transformers.dynamic_module_utils import custom_object_save

from ..modeling.configuration_metis_home import BRANCHES
from .adapters import LowRankChange
from .checkpoint import Checkpoint, LazyTensor
from .dense_export import dense_config, write_dense
from .hub_folder import copy_generation_config
from .peft_export import adapter_from_low_rank, write_adapter
from .router_export import write_router
from .tensor_writer import check_space, shard_limit, write_shards


MODEL, ADAPTERS, ROUTER, SETTINGS = "model", "adapters", "router", "serving.json"
POINTER_RANK = 8
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # those that vLLM's --max-lora-rank takes
MIDDLEWARE = "hf_metis_home.serving.RouterMiddleware"


def write_vllm(hybrid: Checkpoint, made: dict, staging: Path) -> dict:
    """
    Write the folders `model`, `adapters/thinking`, `adapters/non_thinking` and `router`, and serving.json.

    Args:
        hybrid ([`~conversion.checkpoint.Checkpoint`]):
            A two-branch model of either kind.
        made (`dict`):
            What upcycling noted of its source.
        staging (`Path`):
            An empty folder.

    Returns:
        `dict`: `branch_kind` and `max_lora_rank`, for [`vllm_flags`], and the `command` that they make in the folder.

    Raises:
        ValueError: a rank that vLLM does not take.
    """
    text = hybrid.config.text_config
    rank = POINTER_RANK if text.branch_kind == "ffn" else text.branch_rank
    if rank > RANKS[-1]:
        raise ValueError(f"`branch_rank` is {rank}, but vLLM takes adapters up to rank {RANKS[-1]}.")
    for name in (MODEL, ROUTER, *(f"{ADAPTERS}/{branch}" for branch in BRANCHES)):
        (staging / name).mkdir(parents=True)
    for branch in BRANCHES:
        folder = staging / ADAPTERS / branch
        if text.branch_kind == "ffn":
            write_adapter(folder, _pointer(hybrid, branch), rank, rank, MODEL)
        else:
            write_adapter(folder, adapter_from_low_rank(hybrid, branch), rank, text.branch_alpha, MODEL)
    if text.branch_kind == "ffn":
        _write_gated(hybrid, staging / MODEL)
    else:
        write_dense(hybrid, "shared", made, staging / MODEL)
    write_router(hybrid, staging / ROUTER)
    (staging / SETTINGS).write_text(json.dumps({"router": ROUTER}, indent=2) + "\n", encoding="utf-8")
    record = {"branch_kind": text.branch_kind, "max_lora_rank": min(each for each in RANKS if each >= rank)}
    return {**record, "command": shlex.join(["vllm", "serve", *vllm_flags(**record, model_name="metis-home")])}


def vllm_flags(branch_kind: str, max_lora_rank: int, model_name: str, folder: str = "") -> list[str]:
    """
    The words after `vllm serve`, for a folder that [`write_vllm`] wrote; by default to be run in it.

    Args:
        branch_kind, max_lora_rank:
            As `export.json` in the folder holds them.
        model_name (`str`):
            What clients call the hybrid.
        folder (`str`, *optional*):
            In front of the paths, with a slash.
    """
    flags = [f"{folder}{MODEL}", "--served-model-name", model_name]
    # Both adapters in one batch; with one at a time, requests of one branch would wait for those of the other.
    flags += ["--enable-lora", "--max-loras", "2", "--max-lora-rank", str(max_lora_rank)]
    flags += ["--lora-modules", *(f"{branch}={folder}{ADAPTERS}/{branch}" for branch in BRANCHES)]
    if branch_kind == "ffn":
        # All that the adapters change; by default every linear layer would be ready for one, at a price per token.
        flags += ["--lora-target-modules", "branch_gate"]
    return [*flags, "--middleware", MIDDLEWARE]


def _two_branch_layers(hybrid: Checkpoint) -> range:
    return range(hybrid.config.text_config.router_layer, hybrid.config.text_config.num_hidden_layers)


def _pointer(hybrid: Checkpoint, branch: str) -> dict[str, LowRankChange]:
    """The adapter that makes every gate point at a branch."""
    from ..modeling.gated_metis_home import GATE

    A, B = torch.zeros(POINTER_RANK, GATE), torch.zeros(GATE, POINTER_RANK)
    A[0, 0] = B[BRANCHES.index(branch), 0] = 1
    name = "model.language_model.layers.{}.mlp.branch_gate"
    # Each name its own tensor: safetensors refuses two names for one memory.
    return {
        name.format(layer): LowRankChange(LazyTensor.of(A.clone()), LazyTensor.of(B.clone()), scaling=1.0)
        for layer in _two_branch_layers(hybrid)
    }


def _write_gated(hybrid: Checkpoint, folder: Path) -> None:
    from ..modeling import gated_metis_home as gated

    text = hybrid.config.text_config
    fields = dense_config(hybrid.config).to_dict()
    for name in ("model_type", "architectures", "transformers_version"):
        fields.pop(name, None)
    config = gated.MetisHomeGatedConfig(**fields, router_layer=text.router_layer)
    tensors = {name: tensor for name, tensor in hybrid.tensors.items() if ".router." not in name}
    for layer in _two_branch_layers(hybrid):
        weights = torch.zeros(gated.GATE, gated.GATE, dtype=hybrid.config.dtype or torch.float32)
        tensors[f"model.language_model.layers.{layer}.mlp.branch_gate.weight"] = LazyTensor.of(weights)
    check_space(folder, sum(tensor.nbytes for tensor in tensors.values()))
    write_shards(folder, tensors, shard_limit(hybrid.files))
    # `save_pretrained` adds one model class on its own; engines ask for `AutoModel`.
    module = gated.__name__.rpartition(".")[2]
    config.auto_map = {
        "AutoConfig": f"{module}.MetisHomeGatedConfig",
        "AutoModel": f"{module}.MetisHomeGatedModel",
        "AutoModelForImageTextToText": f"{module}.MetisHomeGatedForConditionalGeneration",
    }
    with torch.device("meta"):
        model = gated.MetisHomeGatedForConditionalGeneration(config)
    config.architectures, config.dtype = [type(model).__name__], hybrid.config.dtype
    custom_object_save(model, folder, config=config)
    config.save_pretrained(folder)
    copy_generation_config(hybrid.folder, folder)
    AutoProcessor.from_pretrained(hybrid.folder).save_pretrained(folder)
