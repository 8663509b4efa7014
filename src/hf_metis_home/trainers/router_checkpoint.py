"""A two-branch folder with another router: what the router reads through is loaded, the rest goes from file to file."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
import transformers
from datasets import Dataset
from transformers import AutoProcessor

from .. import __version__
from .._folders import check_output_dir, staged_folder
from ..conversion.checkpoint import HYBRID, Checkpoint, LazyTensor, open_checkpoint
from ..conversion.hub_folder import copy_generation_config, local_sources, write_around, write_model_files
from ..conversion.router_export import router_config, router_tensor_names
from ..conversion.tensor_writer import check_space, shard_limit, write_shards
from ..modeling import MetisHomeModel
from .fit_router import RouterFit, fit_router


ROUTER = "model.language_model.router."


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
    Write a two-branch model whose router is fitted to rows.

    Holds the vision tower, the embeddings and the shared layers in memory, on the GPU where there is one. The whole
    model is written although only the router's tensors are new, so that the folder is complete.

    Args:
        model_name_or_path (`str` or `Path`):
            Folder or Hub repository of a two-branch model, or of a router alone, with its processor.
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
        [`~trainers.fit_router.RouterFit`], which `fit_router.json` in the folder holds too.

    Raises:
        FileExistsError: `output_dir` has content.
        FileNotFoundError: no such model, or one without safetensors.
        ValueError: no two-branch model, or what [`fit_router`] refuses. Nothing is written then.
    """
    output_dir = check_output_dir(output_dir)
    hybrid = open_checkpoint(model_name_or_path, "model_name_or_path", HYBRID)
    check_space(output_dir, sum(tensor.nbytes for tensor in hybrid.tensors.values()))
    processor = AutoProcessor.from_pretrained(hybrid.folder, trust_remote_code=False)
    model = _load_router(hybrid)
    fit = fit_router(model, processor, rows, outcomes=outcomes, **options)
    router = {f"{ROUTER}{name}": tensor.cpu() for name, tensor in model.language_model.router.state_dict().items()}
    tensors = {**hybrid.tensors, **{name: LazyTensor.of(tensor) for name, tensor in router.items()}}

    options.pop("progress", None)
    record = {
        "command": command,
        "model_name_or_path": str(model_name_or_path),
        "learned_from": "labels" if outcomes is None else "outcomes",
        **options,
        **asdict(fit),
        "local_sources": local_sources(model_name_or_path),
        "versions": {
            "hf-metis-home": __version__,
            "transformers": transformers.__version__,
            "torch": torch.__version__,
        },
    }
    hybrid.config.calibration = None  # was made with another router
    with staged_folder(output_dir) as staging:
        write_shards(staging, tensors, shard_limit(hybrid.files))
        write_model_files(staging, hybrid.config, hybrid.config.dtype)
        copy_generation_config(hybrid.folder, staging)
        files = {"fit_router.json": json.dumps(record, indent=2) + "\n"}
        write_around(staging, processor, files)
    return fit


def _load_router(hybrid: Checkpoint) -> MetisHomeModel:
    """The router with what it reads through, and nothing beyond."""
    state = {
        name.removeprefix("model."): hybrid.tensors[name].read()
        for name in router_tensor_names(hybrid.tensors, hybrid.config)
    }
    dtype = hybrid.tensors["model.language_model.norm.weight"].dtype
    model = MetisHomeModel.from_pretrained(None, config=router_config(hybrid.config), state_dict=state, dtype=dtype)
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
