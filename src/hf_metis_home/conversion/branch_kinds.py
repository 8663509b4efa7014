"""Changing the kind of a hybrid's branches: low-rank deltas merged into whole networks, and back."""

import copy
from pathlib import Path
from typing import Literal

from .._folders import check_output_dir, staged_folder
from ..modeling.configuration_metis_home import ATTENTION_PROJECTIONS, BRANCHES, FFN_PROJECTIONS
from .checkpoint import HYBRID, Checkpoint, LazyTensor, check_branches, is_branch_tensor, open_checkpoint
from .hub_folder import local_sources, write_hybrid, write_record
from .low_rank import add_delta, approximate_differences, branch_deltas, low_rank_modules, low_rank_tensors


def change_branch_kind(
    model_name_or_path: str | Path,
    output_dir: str | Path,
    *,
    branch_kind: Literal["ffn", "lora"],
    branch_rank: int | None = None,
    max_error: float = 0.1,
) -> Path:
    """
    Write a two-branch model with branches of the other kind. Everything else stays the same, including the router.

    `"lora"` to `"ffn"` merges each branch's deltas into a copy of the shared network. `"ffn"` to `"lora"` makes the
    non-thinking network the shared one (that branch then changes nothing) and approximates the thinking network's
    difference from it at a rank. A model of rank `r` that was merged comes back exactly at rank `2 r`.

    Args:
        model_name_or_path (`str` or `Path`):
            Folder or Hub repository of a two-branch model.
        output_dir (`str` or `Path`):
            Folder to write. Must not exist, or be empty. It appears only when it is complete.
        branch_kind (`str`):
            `"ffn"` or `"lora"`, the one that the model does not have.
        branch_rank (`int`, *optional*, defaults to 64):
            For `"lora"`: rank of the deltas.
        max_error (`float`, *optional*, defaults to 0.1):
            For `"lora"`: largest error allowed in any weight, relative to the Frobenius norm of its difference.

    Returns:
        `Path`: the folder.

    Raises:
        ValueError: not a two-branch model, or one saved with `only_branch`; its branches are of that kind already, or
            change attention, which feed-forward networks cannot hold; the rank loses more than `max_error`.
    """
    # Check everything before anything is written.
    output_dir = check_output_dir(output_dir)
    hybrid = open_checkpoint(model_name_or_path, "model_name_or_path", HYBRID)
    check_branches(hybrid, model_name_or_path, BRANCHES, "`change_branch_kind`")
    config = copy.deepcopy(hybrid.config)
    config.calibration = None  # belongs to the old weights
    text = config.text_config
    if branch_kind == config.branch_kind:
        raise ValueError(f"`branch_kind` is {branch_kind!r}, which the branches of this model are already.")
    config.branch_kind = branch_kind
    if branch_kind == "ffn":
        if branch_rank is not None:
            raise ValueError("`branch_rank` has no effect with `branch_kind='ffn'`. Drop it.")
        tensors = _to_ffn(hybrid)
    else:
        config.branch_rank = min(branch_rank or 64, text.hidden_size, text.intermediate_size)
        config.branch_alpha, config.branch_projections = float(config.branch_rank), list(FFN_PROJECTIONS)
        tensors = _to_lora(hybrid, config, max_error)
    record = {
        "model_name_or_path": str(model_name_or_path),
        "branch_kind": branch_kind,
        "branch_rank": branch_rank,
        "local_sources": local_sources(model_name_or_path),
    }
    with staged_folder(output_dir) as staging:
        write_hybrid(staging, tensors, config, hybrid)
        write_record(staging, "branch_kind.json", record)
    return output_dir


def _to_ffn(hybrid: Checkpoint) -> dict[str, LazyTensor]:
    attention = [name for name in hybrid.config.branch_projections if name in ATTENTION_PROJECTIONS]
    if attention:
        raise ValueError(f"The branches change {attention}, 'ffn' branches cannot. Keep 'lora', or export to 'dense'.")
    deltas = {branch: branch_deltas(hybrid, branch) for branch in BRANCHES}
    tensors = {}
    for name, tensor in hybrid.tensors.items():
        if ".lora_" in name:
            continue
        if not is_branch_tensor(name, hybrid.config.router_layer):
            tensors[name] = tensor
            continue
        for branch in BRANCHES:
            delta = deltas[branch].get(name.removesuffix(".weight"))
            tensors[name.replace(".mlp.", f".mlp.{branch}.")] = add_delta(tensor, delta)
    return tensors


def _to_lora(hybrid: Checkpoint, config, max_error: float) -> dict[str, LazyTensor]:
    thinking, non_thinking = (
        {
            f"{module}.weight": hybrid.tensors[f"{module.replace('.mlp.', f'.mlp.{branch}.')}.weight"]
            for module in low_rank_modules(config)
        }
        for branch in BRANCHES
    )
    deltas, _ = approximate_differences(thinking, non_thinking, config.branch_rank, max_error, "branch_rank")
    shared = {name: tensor for name, tensor in hybrid.tensors.items() if ".mlp.thinking." not in name}
    shared = {name.replace(".mlp.non_thinking.", ".mlp."): tensor for name, tensor in shared.items()}
    dtype = next(iter(non_thinking.values())).dtype
    return shared | low_rank_tensors(shared, config, {"thinking": deltas}, dtype, seed=0)
