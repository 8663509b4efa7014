"""
A hybrid as vLLM serves it: one model and one adapter per branch; the adapter of a request chooses its branch.

Branches of the `"lora"` kind are adapters already, over the shared network. Whole networks both go into one model; its
two adapters, the same for every model, only point at one of them (see `modeling/gated_metis_home.py`).
"""

import json
import shlex
from pathlib import Path

import torch

from ..modeling.configuration_metis_home import BRANCHES
from .checkpoint import OF_THE_CLASS, Checkpoint, LazyTensor
from .dense_export import dense_config, write_dense
from .hub_folder import write_model
from .low_rank import LowRankDelta, branch_deltas
from .peft_export import write_adapter
from .router_export import write_router


MODEL, ADAPTERS, ROUTER, SETTINGS = "model", "adapters", "router", "serving.json"
POINTER_RANK = 8
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM's --max-lora-rank accepts
MIDDLEWARE = "hf_metis_home.serving.RouterMiddleware"


def write_vllm(hybrid: Checkpoint, upcycled: dict, staging: Path) -> dict:
    """
    Write the folders `model`, `adapters/thinking`, `adapters/non_thinking` and `router`, and serving.json.

    Args:
        hybrid ([`~conversion.checkpoint.Checkpoint`]):
            A two-branch model of either kind.
        upcycled (`dict`):
            The model's `upcycle.json`.
        staging (`Path`):
            An empty folder.

    Returns:
        `dict`: `branch_kind` and `max_lora_rank`, for [`vllm_flags`], and the `command` to run in the folder.

    Raises:
        ValueError: the rank is larger than vLLM supports.
    """
    config = hybrid.config
    ffn = config.branch_kind == "ffn"
    rank = POINTER_RANK if ffn else config.branch_rank
    if rank > RANKS[-1]:
        raise ValueError(f"`branch_rank` is {rank}, but vLLM supports adapters only up to rank {RANKS[-1]}.")
    for name in (MODEL, ROUTER, *(f"{ADAPTERS}/{branch}" for branch in BRANCHES)):
        (staging / name).mkdir(parents=True)
    for branch in BRANCHES:
        deltas = _pointer(hybrid, branch) if ffn else branch_deltas(hybrid, branch)
        write_adapter(staging / ADAPTERS / branch, deltas, rank, rank if ffn else config.branch_alpha, MODEL)
    if ffn:
        _write_gated(hybrid, staging / MODEL)
    else:
        write_dense(hybrid, "shared", upcycled, staging / MODEL)
    write_router(hybrid, staging / ROUTER)
    (staging / SETTINGS).write_text(json.dumps({"router": ROUTER}, indent=2) + "\n", encoding="utf-8")
    record = {"branch_kind": config.branch_kind, "max_lora_rank": min(each for each in RANKS if each >= rank)}
    return {**record, "command": shlex.join(["vllm", "serve", *vllm_flags(**record, model_name="metis-home")])}


def vllm_flags(branch_kind: str, max_lora_rank: int, model_name: str, folder: str = "") -> list[str]:
    """
    The arguments of `vllm serve` for a folder that [`write_vllm`] wrote.

    Args:
        branch_kind, max_lora_rank:
            As in the folder's `export.json`.
        model_name (`str`):
            Name of the hybrid for clients.
        folder (`str`, *optional*):
            Prefix of the paths, ending in a slash; by default they are relative to the folder.
    """
    flags = [f"{folder}{MODEL}", "--served-model-name", model_name]
    # Both adapters in one batch; otherwise requests for one branch would wait for those for the other.
    flags += ["--enable-lora", "--max-loras", "2", "--max-lora-rank", str(max_lora_rank)]
    flags += ["--lora-modules", *(f"{branch}={folder}{ADAPTERS}/{branch}" for branch in BRANCHES)]
    if branch_kind == "ffn":
        # The only modules that the adapters change; by default every linear layer pays for LoRA on every token.
        flags += ["--lora-target-modules", "branch_gate"]
    return [*flags, "--middleware", MIDDLEWARE]


def _gates(hybrid: Checkpoint) -> list[str]:
    """Names of the gates, one per layer with branches."""
    layers = range(hybrid.config.router_layer, hybrid.config.text_config.num_hidden_layers)
    return [f"model.language_model.layers.{layer}.mlp.branch_gate" for layer in layers]


def _pointer(hybrid: Checkpoint, branch: str) -> dict[str, LowRankDelta]:
    """The adapter that makes every gate point at a branch."""
    from ..modeling.gated_metis_home import GATE

    A, B = torch.zeros(POINTER_RANK, GATE), torch.zeros(GATE, POINTER_RANK)
    A[0, 0] = B[BRANCHES.index(branch), 0] = 1
    # Cloned, because safetensors refuses two names for the same memory.
    return {
        gate: LowRankDelta(LazyTensor.of(A.clone()), LazyTensor.of(B.clone()), scaling=1.0) for gate in _gates(hybrid)
    }


def _write_gated(hybrid: Checkpoint, folder: Path) -> None:
    from ..modeling import gated_metis_home as gated

    fields = dense_config(hybrid.config).to_dict()
    fields = {name: value for name, value in fields.items() if name not in OF_THE_CLASS}
    config = gated.MetisHomeGatedConfig(**fields, router_layer=hybrid.config.router_layer)
    module = gated.__name__.rpartition(".")[2]
    config.auto_map = {
        "AutoConfig": f"{module}.MetisHomeGatedConfig",
        "AutoModel": f"{module}.MetisHomeGatedModel",  # what engines ask for
        "AutoModelForImageTextToText": f"{module}.MetisHomeGatedForConditionalGeneration",
    }
    tensors = {name: tensor for name, tensor in hybrid.tensors.items() if ".router." not in name}
    for gate in _gates(hybrid):
        weight = torch.zeros(gated.GATE, gated.GATE, dtype=hybrid.config.dtype or torch.float32)
        tensors[f"{gate}.weight"] = LazyTensor.of(weight)
    write_model(folder, tensors, config, hybrid, gated.MetisHomeGatedForConditionalGeneration)
