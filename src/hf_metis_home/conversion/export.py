"""
Exporting a two-branch model: one branch as a dense Qwen2.5-VL or as a PEFT adapter, only the router, or everything that
vLLM needs to serve the hybrid. Tensors are read one at a time, as in upcycling.
"""

import json
from pathlib import Path
from typing import Literal

from .._folders import check_output_dir, staged_folder
from ..hub_templates.card_merge import write_card
from ..hub_templates.cards import export_card_parts
from ..modeling.configuration_metis_home import BRANCHES
from .checkpoint import HYBRID, check_branches, open_checkpoint
from .dense_export import write_dense
from .fingerprint import processor_fingerprint, weights_fingerprint
from .hub_folder import local_sources
from .peft_export import write_peft
from .router_export import write_router
from .vllm_export import write_vllm


FORMATS = ("dense", "peft", "vllm", "router")


def export_checkpoint(
    model_name_or_path: str | Path,
    output_dir: str | Path,
    *,
    format: Literal["dense", "peft", "vllm", "router"],
    branch: Literal["thinking", "non_thinking", "shared"] | None = None,
    base_model: str | Path | None = None,
    rank: int | None = None,
    max_error: float | None = None,
    check_logits: bool = True,
) -> dict:
    """
    Write a branch or the router of a two-branch model, or what vLLM needs to serve it, as a separate folder.

    Args:
        model_name_or_path (`str` or `Path`):
            Folder or Hub repository of a two-branch model.
        output_dir (`str` or `Path`):
            Folder to write. Must not exist, or be empty. It appears only when it is complete.
        format (`str`):
            `"dense"`: a stock Qwen2.5-VL, in the key layout and dtypes of the model that was upcycled, if known.
            `"peft"`: a stock PEFT LoRA adapter over `base_model`. `"router"`: vision tower, embeddings, the first
            `router_layer` layers and the router, enough for `route()`. `"vllm"`: a model with one adapter per branch
            for vLLM, the router, and a README with the command that serves them.
        branch (`str`, *optional*):
            `"thinking"` or `"non_thinking"`, required by `"dense"` and `"peft"`; or `"shared"`, for format `"dense"`
            of a `"lora"` model: its weights without the delta of either branch, the base of both adapters.
        base_model (`str` or `Path`, *optional*):
            `"peft"`: the dense model that the adapter is for, which must have the two-branch model's shared weights; by
            default the one named in `upcycle.json`.
        rank (`int`, *optional*, defaults to 64):
            `"peft"` of the `"ffn"` kind: rank of the adapter.
        max_error (`float`, *optional*, defaults to 0.1):
            `"peft"` of the `"ffn"` kind: largest error allowed in any weight, relative to the Frobenius norm of the
            branch's difference from the base.
        check_logits (`bool`, *optional*, defaults to `True`):
            `"peft"` of the `"ffn"` kind: load the branch and report how far its logits move.

    Returns:
        `dict`: the content of `export.json`: the arguments; for an adapter of the `"ffn"` kind the energy kept per
        weight and the error of the logits; for `"vllm"` and `"router"` fingerprints of the source's `weights` and
        `processor`, which tell whether the export is still up to date.

    Raises:
        FileExistsError: `output_dir` has content.
        FileNotFoundError: a source is missing or has no safetensors.
        OSError: the disk has too little room, or cannot be written.
        ValueError: the source is not a two-branch model, or was saved with `only_branch` without the branch; an
            argument is missing, unknown or does not belong to the format; the base has other shared weights; the rank
            loses more than `max_error`.

    Example:

    ```python
    >>> from hf_metis_home import export_checkpoint

    >>> export_checkpoint("runs/hybrid", "runs/thinking", format="dense", branch="thinking")
    ```
    """
    output_dir = check_output_dir(output_dir)
    _check_arguments(format, branch, base_model, rank, max_error)
    hybrid = open_checkpoint(model_name_or_path, "model_name_or_path", HYBRID)
    if branch == "shared" and hybrid.config.branch_kind == "ffn":
        raise ValueError("`branch` is 'shared', but with `branch_kind='ffn'` every model needs a branch. Choose one.")
    needed = BRANCHES if format == "vllm" else [name for name in BRANCHES if name == branch]
    check_branches(hybrid, model_name_or_path, needed, f"`format={format!r}`")
    # A trainer's checkpoint has no such file.
    path = hybrid.folder / "upcycle.json"
    upcycled = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    base_model = base_model or upcycled.get("model_name_or_path")
    sources = (model_name_or_path, base_model) if format == "peft" else (model_name_or_path,)
    record: dict = {"model_name_or_path": str(model_name_or_path), "format": format, "branch": branch}
    record["local_sources"] = local_sources(*sources)
    with staged_folder(output_dir) as staging:
        if format == "dense":
            write_dense(hybrid, branch, upcycled, staging)
        elif format == "peft":
            record |= write_peft(hybrid, branch, base_model, staging, rank, max_error, check_logits)
        else:
            if format == "vllm":
                record |= write_vllm(hybrid, upcycled, staging)
            else:
                write_router(hybrid, staging)
            record["weights"] = weights_fingerprint(hybrid.folder)
            record["processor"] = processor_fingerprint(hybrid.folder)
        (staging / "export.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        write_card(staging / "README.md", *export_card_parts(**record))
    return record


def _check_arguments(format: str, branch: str | None, base_model, rank: int | None, max_error: float | None) -> None:
    if format not in FORMATS:
        raise ValueError(f"`format` is {format!r}, but must be one of {list(FORMATS)}.")
    allowed = {"dense": (*BRANCHES, "shared"), "peft": BRANCHES}.get(format, (None,))
    if branch not in allowed:
        wanted = "takes no branch" if allowed == (None,) else f"needs one of {list(allowed)}"
        raise ValueError(f"`branch` is {branch!r}, but `format={format!r}` {wanted}.")
    given = {"base_model": base_model, "rank": rank, "max_error": max_error}
    if format != "peft" and (unused := [name for name, value in given.items() if value is not None]):
        raise ValueError(f"{unused} have no effect with `format={format!r}`; they belong to 'peft'. Drop them.")
    if rank is not None and rank < 1:
        raise ValueError(f"`rank` is {rank}, but must be at least 1.")
    if max_error is not None and not 0.0 <= max_error <= 1.0:
        raise ValueError(f"`max_error` is {max_error}, but is a share of the branch's difference, in [0, 1].")
