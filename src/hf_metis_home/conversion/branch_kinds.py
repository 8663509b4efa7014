"""From one kind of branches to the other: low-rank changes merged into whole networks, and back."""

import copy
import json
from pathlib import Path
from typing import Literal

from transformers import AutoProcessor

from .._folders import check_output_dir, staged_folder
from ..modeling.configuration_metis_home import ATTENTION_PROJECTIONS, BRANCHES, FFN_PROJECTIONS
from .adapters import add_change, low_rank_modules, low_rank_name, no_change
from .checkpoint import HYBRID, Checkpoint, LazyTensor, check_branches, is_branch_tensor, open_checkpoint
from .hub_folder import copy_generation_config, local_sources, write_around, write_model_files
from .peft_export import adapter_from_low_rank, low_rank_differences
from .tensor_writer import check_space, shard_limit, write_shards


def change_branch_kind(
    model_name_or_path: str | Path,
    output_dir: str | Path,
    *,
    branch_kind: Literal["ffn", "lora"],
    branch_rank: int | None = None,
    max_error: float = 0.1,
) -> Path:
    """
    Write a two-branch model with branches of the other kind. Everything else stays as it is, the router included.

    `"lora"` to `"ffn"` merges each change into a copy of the shared network. `"ffn"` to `"lora"` takes the non-thinking
    network for the shared one, whose branch then changes nothing, and cuts the difference of the thinking network to a
    rank. A model of rank `r` that was merged comes back exactly at rank `2 r`.

    Args:
        model_name_or_path (`str` or `Path`):
            Folder or Hub repository of a two-branch model.
        output_dir (`str` or `Path`):
            Folder to write. Must not exist, or be empty. It appears only when it is complete.
        branch_kind (`str`):
            `"ffn"` or `"lora"`, the one that the model does not have.
        branch_rank (`int`, *optional*, defaults to 64):
            For `"lora"`: rank of the changes.
        max_error (`float`, *optional*, defaults to 0.1):
            For `"lora"`: largest loss allowed in any weight, as the Frobenius norm of what the rank leaves out over
            that of the difference.

    Returns:
        `Path`: the folder.

    Raises:
        ValueError: no two-branch model, one that was saved with `only_branch`, branches of that kind already, changes
            of attention, which whole feed-forward networks cannot hold, a rank that loses more than `max_error`.
    """
    output_dir = check_output_dir(output_dir)
    hybrid = open_checkpoint(model_name_or_path, "model_name_or_path", HYBRID)
    check_branches(hybrid, model_name_or_path, BRANCHES, "`change_branch_kind`")
    config = copy.deepcopy(hybrid.config)
    config.calibration = None  # was made with other weights
    text = config.text_config
    if branch_kind == text.branch_kind:
        raise ValueError(f"`branch_kind` is {branch_kind!r}, which the branches of this model are already.")
    text.branch_kind = branch_kind
    if branch_kind == "ffn":
        if branch_rank is not None:
            raise ValueError("`branch_rank` has no effect with `branch_kind='ffn'`. Drop it.")
        tensors = _whole_networks(hybrid)
    else:
        text.branch_rank = min(branch_rank or 64, text.hidden_size, text.intermediate_size)
        text.branch_alpha, text.branch_projections = float(text.branch_rank), list(FFN_PROJECTIONS)
        tensors = _low_rank_changes(hybrid, config.text_config, max_error)
    check_space(output_dir, sum(tensor.nbytes for tensor in tensors.values()))
    record = {
        "model_name_or_path": str(model_name_or_path),
        "branch_kind": branch_kind,
        "branch_rank": branch_rank,
        "local_sources": local_sources(model_name_or_path),
    }
    with staged_folder(output_dir) as staging:
        write_shards(staging, tensors, shard_limit(hybrid.files))
        write_model_files(staging, config, hybrid.config.dtype)
        copy_generation_config(hybrid.folder, staging)
        files = {"branch_kind.json": json.dumps(record, indent=2) + "\n"}
        write_around(staging, AutoProcessor.from_pretrained(hybrid.folder), files)
    return output_dir


def _whole_networks(hybrid: Checkpoint) -> dict[str, LazyTensor]:
    text = hybrid.config.text_config
    if attention := [name for name in text.branch_projections if name in ATTENTION_PROJECTIONS]:
        raise ValueError(
            f"The branches change {attention}, which whole feed-forward networks cannot hold. Keep 'lora', or export "
            "each branch as a dense model."
        )
    changes = {branch: adapter_from_low_rank(hybrid, branch) for branch in BRANCHES}
    tensors = {}
    for name, tensor in hybrid.tensors.items():
        module = name.removesuffix(".weight")
        if ".lora_" in name:
            continue
        if not is_branch_tensor(name, text.router_layer):
            tensors[name] = tensor
            continue
        for branch in BRANCHES:
            change = changes[branch].get(module)
            merged = tensor if change is None else add_change(tensor, change)
            tensors[name.replace(".mlp.", f".mlp.{branch}.")] = merged
    return tensors


def _low_rank_changes(hybrid: Checkpoint, text, max_error: float) -> dict[str, LazyTensor]:
    modules = low_rank_modules(text)
    networks = {
        branch: {
            f"{module}.weight": hybrid.tensors[f"{module.replace('.mlp.', f'.mlp.{branch}.')}.weight"]
            for module in modules
        }
        for branch in BRANCHES
    }
    changes, _ = low_rank_differences(
        networks["thinking"], networks["non_thinking"], text.branch_rank, max_error, "branch_rank"
    )
    tensors = {name: tensor for name, tensor in hybrid.tensors.items() if ".mlp.thinking." not in name}
    tensors = {name.replace(".mlp.non_thinking.", ".mlp."): tensor for name, tensor in tensors.items()}
    for module in modules:
        weight = tensors[f"{module}.weight"]
        for branch in BRANCHES:
            change = changes.get(module) if branch == "thinking" else None
            halves = (change.A, change.B) if change else no_change(weight, text.branch_rank, f"{branch} {module}")
            tensors[low_rank_name(module, branch, "A")] = halves[0].to(weight.dtype)
            tensors[low_rank_name(module, branch, "B")] = halves[1].to(weight.dtype)
    return tensors
