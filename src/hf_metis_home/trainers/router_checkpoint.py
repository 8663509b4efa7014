"""Fitting the router of a two-branch folder: only what the router reads through is loaded, the rest is copied."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from datasets import Dataset
from transformers import AutoProcessor

from .._folders import check_output_dir, staged_folder
from .._versions import versions
from ..conversion.checkpoint import HYBRID, open_checkpoint
from ..conversion.hub_folder import local_sources, write_hybrid, write_record
from ..conversion.router_export import load_router, stored_router
from ..conversion.tensor_writer import check_space
from .fit_router import RouterFit, fit_router


def fit_router_checkpoint(
    model_name_or_path: str | Path,
    output_dir: str | Path,
    rows: Sequence[dict],
    *,
    outcomes: Dataset | None = None,
    command: str | None = None,
    **options,
) -> RouterFit:
    """
    Write a two-branch model with its router fitted to rows.

    Loads the vision tower, the embeddings and the shared layers, on the GPU if there is one. Writes the whole model,
    although only the router's tensors are new, so that the folder is complete.

    Args:
        model_name_or_path (`str` or `Path`):
            Folder or Hub repository of a two-branch model, or of a router export, with its processor.
        output_dir (`str` or `Path`):
            Folder to write. Must not exist, or be empty. It appears only when it is complete.
        rows, outcomes:
            As [`fit_router`] takes them.
        command (`str`, *optional*):
            The command line, for `fit_router.json`.
        options:
            `token_cost`, `steps`, `learning_rate`, `batch_size`, `validation_fraction`, `seed`, `progress` of
            [`fit_router`].

    Returns:
        [`~trainers.fit_router.RouterFit`], which is also in the folder's `fit_router.json`.

    Raises:
        FileExistsError: `output_dir` has content.
        FileNotFoundError: no such model, or one without safetensors.
        ValueError: not a two-branch model, or an error of [`fit_router`]. Then nothing is written.
    """
    output_dir = check_output_dir(output_dir)
    hybrid = open_checkpoint(model_name_or_path, "model_name_or_path", HYBRID)
    check_space(output_dir, hybrid.tensors)
    processor = AutoProcessor.from_pretrained(hybrid.folder, trust_remote_code=False)
    model = load_router(hybrid.tensors, hybrid.config)
    fit = fit_router(model, processor, rows, outcomes=outcomes, **options)

    options.pop("progress", None)
    record = {
        "command": command,
        "model_name_or_path": str(model_name_or_path),
        "learned_from": "labels" if outcomes is None else "outcomes",
        **options,
        **asdict(fit),
        "local_sources": local_sources(model_name_or_path),
        "versions": versions(),
    }
    hybrid.config.calibration = None  # belongs to the old router
    with staged_folder(output_dir) as staging:
        write_hybrid(staging, hybrid.tensors | stored_router(model), hybrid.config, hybrid, processor)
        write_record(staging, "fit_router.json", record)
    return fit
