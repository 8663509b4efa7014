"""
From two branches back to formats that stand alone: a dense Qwen2.5-VL, a PEFT adapter, the router, or all that vLLM
needs to serve the hybrid.

Tensors go from file to file one at a time, as in upcycling.
"""

import json
from pathlib import Path
from typing import Literal

from .._folders import check_output_dir, staged_folder
from ..hub_templates import render_export_card
from ..modeling.configuration_metis_home import BRANCHES
from .checkpoint import HYBRID, Checkpoint, check_branches, is_branch_tensor, open_checkpoint
from .dense_export import write_dense
from .fingerprint import processor_fingerprint, weights_fingerprint
from .hub_folder import local_sources
from .peft_export import adapter_from_low_rank, check_shared, logit_error, low_rank_differences, write_adapter
from .router_export import write_router
from .vllm_export import write_vllm


FORMATS = ("dense", "peft", "vllm", "router")
DEFAULT_RANK, DEFAULT_MAX_ERROR = 64, 0.1


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
    Write one branch, or the router, of a two-branch model as a folder of its own.

    Args:
        model_name_or_path (`str` or `Path`):
            Folder or Hub repository of a two-branch model.
        output_dir (`str` or `Path`):
            Folder to write. Must not exist, or be empty. It appears only when it is complete.
        format (`str`):
            `"dense"`: a stock Qwen2.5-VL, in the key layout and types of the model that was upcycled, if known.
            `"peft"`: a stock PEFT LoRA adapter over `base_model`. `"router"`: vision tower, embeddings, the
            `router_layer` shared layers and the router, to `route()` without the rest. `"vllm"`: a model and an adapter
            per branch for vLLM, the router, and a README with the command that serves them.
        branch (`str`, *optional*):
            `"thinking"` or `"non_thinking"`, needed by `"dense"` and `"peft"`; `"shared"` for the `"dense"` format of a
            model of the `"lora"` kind: its weights without either branch's change, the base of both adapters.
        base_model (`str` or `Path`, *optional*):
            `"peft"`: the dense model that the adapter changes, which must have the two-branch model's shared weights;
            by default the one that `upcycle.json` names.
        rank (`int`, *optional*, defaults to 64):
            `"peft"` of the `"ffn"` kind: rank of the adapter.
        max_error (`float`, *optional*, defaults to 0.1):
            `"peft"` of the `"ffn"` kind: largest loss allowed in any weight, as the Frobenius norm of what the rank
            leaves out over that of the branch's difference from the base.
        check_logits (`bool`, *optional*, defaults to `True`):
            `"peft"` of the `"ffn"` kind: load one branch and report how far the adapter moves its logits.

    Returns:
        `dict`: what `export.json` in the folder holds: the arguments, for an adapter of the `"ffn"` kind the energy
        kept per weight and the error of the logits, for `"vllm"` and `"router"` the fingerprints of the source's
        `weights` and `processor`.

    Raises:
        FileExistsError: `output_dir` has content.
        FileNotFoundError: a source is missing or has no safetensors.
        OSError: the disk has not enough room, or cannot be written.
        ValueError: a source that is no two-branch model, a branch that is missing, superfluous or unknown, one that a
            folder saved with `only_branch` lacks, a base with other shared weights, a rank that loses more than
            `max_error`.

    Example:

    ```python
    >>> from hf_metis_home import export_checkpoint

    >>> export_checkpoint("runs/hybrid", "runs/thinking", format="dense", branch="thinking")
    ```
    """
    output_dir = check_output_dir(output_dir)
    _check_arguments(format, branch, base_model, rank, max_error)
    hybrid = open_checkpoint(model_name_or_path, "model_name_or_path", HYBRID)
    if branch == "shared" and hybrid.config.text_config.branch_kind == "ffn":
        raise ValueError(
            "`branch` is 'shared', but with `branch_kind='ffn'` nothing is left without a branch. Name one."
        )
    needed = BRANCHES if format == "vllm" else [name for name in BRANCHES if name == branch]
    check_branches(hybrid, model_name_or_path, needed, f"`format={format!r}`")
    made = _upcycle_record(hybrid)
    record: dict = {"model_name_or_path": str(model_name_or_path), "format": format, "branch": branch}
    record["local_sources"] = local_sources(model_name_or_path)
    with staged_folder(output_dir) as staging:
        if format == "dense":
            write_dense(hybrid, branch, made, staging)
        elif format == "router":
            write_router(hybrid, staging)
            record |= _fingerprints(hybrid.folder)
        elif format == "vllm":
            record |= write_vllm(hybrid, made, staging)
            record |= _fingerprints(hybrid.folder)
        else:
            base_model = base_model or made.get("model_name_or_path")
            if base_model is None:
                raise ValueError(
                    "`base_model` is not given, and no upcycle.json says which dense model this was made from. Name "
                    "the dense model that the adapter shall change."
                )
            base = open_checkpoint(base_model, "base_model")
            check_shared(hybrid, base, str(base_model), branch)
            record["base_model"] = str(base_model)
            record["local_sources"] += local_sources(base_model)
            text = hybrid.config.text_config
            if text.branch_kind == "lora":
                changes = adapter_from_low_rank(hybrid, branch)
                write_adapter(staging, changes, text.branch_rank, text.branch_alpha, str(base_model))
            else:
                rank = min(rank or DEFAULT_RANK, text.hidden_size, text.intermediate_size)
                max_error = DEFAULT_MAX_ERROR if max_error is None else max_error
                networks = {
                    name: hybrid.tensors[name.replace(".mlp.", f".mlp.{branch}.")]
                    for name in base.tensors
                    if is_branch_tensor(name, text.router_layer)
                }
                changes, kept = low_rank_differences(networks, base.tensors, rank, max_error)
                if not changes:
                    raise ValueError(
                        f"`branch` is {branch!r}, which does not differ from the base model: there is nothing for an "
                        "adapter to say. Use the base model itself."
                    )
                write_adapter(staging, changes, rank, rank, str(base_model))
                record |= {"rank": rank, "max_error": max_error, "energy_kept": kept}
                if check_logits:
                    record["logit_error"] = logit_error(hybrid.folder, branch, base, changes)
        (staging / "export.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        (staging / "README.md").write_text(render_export_card(**record), encoding="utf-8")
    return record


def _fingerprints(folder: Path) -> dict:
    """By which a folder tells whether it is still an export of a model."""
    return {"weights": weights_fingerprint(folder), "processor": processor_fingerprint(folder)}


def _check_arguments(format: str, branch: str | None, base_model, rank: int | None, max_error: float | None) -> None:
    if format not in FORMATS:
        raise ValueError(f"`format` is {format!r}, but must be one of {list(FORMATS)}.")
    allowed = {"dense": (*BRANCHES, "shared"), "peft": BRANCHES}.get(format, (None,))
    if branch not in allowed:
        wanted = "takes no branch: it belongs to both" if allowed == (None,) else f"needs one of {list(allowed)}"
        raise ValueError(f"`branch` is {branch!r}, but `format={format!r}` {wanted}.")
    if format != "peft":
        given = {"base_model": base_model, "rank": rank, "max_error": max_error}
        if unused := [name for name, value in given.items() if value is not None]:
            raise ValueError(f"{unused} have no effect with `format={format!r}`; they belong to 'peft'. Drop them.")
    if rank is not None and rank < 1:
        raise ValueError(f"`rank` is {rank}, but must be at least 1.")
    if max_error is not None and not 0.0 <= max_error <= 1.0:
        raise ValueError(
            f"`max_error` is {max_error}, but is a share of the branch's difference and must be in [0, 1]."
        )


def _upcycle_record(hybrid: Checkpoint) -> dict:
    """What upcycling noted of the source. A checkpoint of a trainer has no such file."""
    path = hybrid.folder / "upcycle.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
