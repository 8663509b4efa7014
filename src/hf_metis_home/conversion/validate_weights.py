"""Checks of a two-branch folder's configuration and weights. Each returns a remark, or raises what is wrong."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from .._progress import progress
from ..modeling import MetisHomeConfig
from ..modeling.configuration_metis_home import BRANCHES
from .checkpoint import HYBRID, Checkpoint, LazyTensor, open_tensors, read_config, some, tensor_problems
from .fingerprint import calibration_problem


ARGUMENT = "model_name_or_path"
HEAD, EMBEDDINGS = "lm_head.weight", "model.language_model.embed_tokens.weight"
AGAIN = "Fetch the folder again or save the model again."


@dataclass
class Folder:
    """A two-branch folder, and what the checks have opened of it so far."""

    path: Path
    dense: Checkpoint | None = None
    config: MetisHomeConfig | None = None
    tensors: dict[str, LazyTensor] = field(default_factory=dict)
    processor: Any = None


def check_configuration(folder: Folder) -> str:
    try:
        folder.config = read_config(folder.path, ARGUMENT, HYBRID)
    except Exception as error:  # transformers checks the types of fields with its own exceptions
        raise ValueError(f"config.json cannot be used: {error} Correct it or save the model again.") from error
    config = folder.config
    if config.is_router_only:
        return f"only a router, after {config.router_layer} layers"
    return (
        f"{config.branch_kind} branches in layers {config.router_layer} to {config.text_config.num_hidden_layers - 1}"
    )


def check_files(folder: Folder) -> str:
    tensors, files, names = open_tensors(folder.path, ARGUMENT)
    # By their stored names: remote code has no mapping from those of earlier checkpoints.
    folder.tensors = dict(zip(names, tensors.values(), strict=True))
    size = sum(tensor.nbytes for tensor in folder.tensors.values())
    return f"{len(files)} weight file{'s' * (len(files) > 1)}, {size / 1e9:.2f} GB"


def check_tensors(folder: Folder) -> str:
    shapes = {name: tensor.shape for name, tensor in folder.tensors.items()}
    if problems := tensor_problems(shapes, folder.config):
        raise ValueError("; ".join(problems) + f". {AGAIN}")
    return f"{len(shapes)}, exactly those that the configuration calls for"


def check_dtypes(folder: Folder) -> str:
    # The router is kept in fp32, and so are deltas from PEFT adapters.
    dtypes: dict[str, dict[torch.dtype, list[str]]] = {"": {}, "router": {}, "lora": {}}
    for name, tensor in folder.tensors.items():
        part = "router" if ".router." in name else "lora" if ".lora_" in name else ""
        dtypes[part].setdefault(tensor.dtype, []).append(name)
    main = dtypes.pop("")
    if len(main) > 1:
        counts = {str(dtype).removeprefix("torch."): len(names) for dtype, names in main.items()}
        rare = min(main.values(), key=len)
        raise ValueError(f"The weights have several dtypes, {counts}: {some(rare)}. Save the model with one `dtype`.")
    (dtype,) = main
    found = [(part, other, names) for part, groups in dtypes.items() for other, names in groups.items()]
    for _, other, names in found:
        if other not in (dtype, torch.float32):
            raise ValueError(f"{some(names)}: neither the model's dtype {dtype} nor float32. Save the model again.")
    return ", ".join([str(dtype), *(f"{part} {other}" for part, other, _ in found)]).replace("torch.", "")


def check_finite(folder: Folder) -> str:
    tensors = _read_all("Reading weights", folder.tensors)
    if wrong := [name for name, tensor in tensors if not torch.isfinite(tensor).all()]:
        raise ValueError(f"{len(wrong)} tensors have NaN or infinite values: {some(wrong)}. Use an earlier checkpoint.")
    return "no NaN or infinity"


def check_head(folder: Folder) -> str:
    head = folder.tensors.get(HEAD)
    if folder.config.is_router_only:
        return "none, as expected of a router"
    if not folder.config.tie_word_embeddings:
        return "stored, not tied to the embeddings"
    if head is None:
        return "tied to the embeddings"
    if not torch.equal(head.read(), folder.tensors[EMBEDDINGS].read()):
        raise ValueError(
            f"`tie_word_embeddings` is true, but {HEAD} differs from {EMBEDDINGS} and would be ignored. Set "
            "`tie_word_embeddings` to false in config.json, or remove the tensor."
        )
    return "tied to the embeddings, and stored as well"


def check_parity(folder: Folder) -> str:
    dense = folder.dense.tensors
    # Which dense tensor each one should equal.
    compared = {}
    for name in folder.tensors:
        if ".router." in name or ".lora_" in name or (name == HEAD and folder.config.tie_word_embeddings):
            continue
        compared[name] = name.replace(f".mlp.{_group(name)}.", ".mlp.")
    shapes = {name: tensor.shape for name, tensor in dense.items()}
    if unlike := [name for name, other in compared.items() if shapes.get(other) != folder.tensors[name].shape]:
        raise ValueError(
            f"{len(unlike)} tensors do not match `dense_model`: {some(unlike)}. Pass the model that was upcycled."
        )
    differences = {group: [] for group in ("shared", *BRANCHES)}
    for name, tensor in _read_all("Comparing", {name: folder.tensors[name] for name in compared}):
        differences[_group(name)].append(_largest(tensor, dense[compared[name]].read()))
    for name in folder.tensors:
        if name.endswith(".lora_B.weight"):
            A, B = (folder.tensors[name.replace(".lora_B.", half)].read().float() for half in (".lora_A.", ".lora_B."))
            scaling = folder.config.branch_alpha / folder.config.branch_rank
            # The delta itself, which is zero before training.
            delta = float((B @ A).abs().max()) * scaling if B.any() else 0.0
            differences[_group(name)].append(delta)
    summary = "; ".join(
        f"{group}: {sum(value > 0 for value in values)} of {len(values)} tensors differ"
        + (f", by at most {max(values):.3g}" if any(values) else "")
        for group, values in differences.items()
        if values
    )
    if any(any(values) for values in differences.values()):
        raise ValueError(f"{summary}. Expected after training or with another `dtype`; otherwise upcycle again.")
    return summary


def _group(name: str) -> str:
    return next((branch for branch in BRANCHES if f".{branch}." in name), "shared")


def _largest(one: torch.Tensor, two: torch.Tensor) -> float:
    if one.dtype == two.dtype and torch.equal(one, two):
        return 0.0
    return float((one.float() - two.float()).abs().max())


def _read_all(title: str, tensors: dict[str, LazyTensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and tensors, read one at a time."""
    with progress(title, sum(tensor.nbytes for tensor in tensors.values()), "bytes") as advance:
        for name, tensor in tensors.items():
            yield name, tensor.read()
            advance(tensor.nbytes)


def check_calibration(folder: Folder) -> str:
    if problem := calibration_problem(folder.path):
        raise ValueError(problem)
    calibration = folder.config.calibration
    if calibration is None:
        return f"none, threshold {folder.config.thinking_threshold:g}"
    return f"threshold {calibration['threshold']:.4g}, calibrated {calibration.get('date')} on these weights"
