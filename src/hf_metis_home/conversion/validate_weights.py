"""Checks of a two-branch folder's configuration and weights. Each returns what it found, or raises what is wrong."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from ..modeling import MetisHomeConfig
from ..modeling.configuration_metis_home import BRANCHES
from .checkpoint import (
    HYBRID,
    INDEX,
    Checkpoint,
    LazyTensor,
    check_index,
    open_file,
    read_config,
    some,
    tensor_problems,
    weight_files,
)
from .fingerprint import calibration_problem


ARGUMENT = "model_name_or_path"
HEAD, EMBEDDINGS = "lm_head.weight", "model.language_model.embed_tokens.weight"
AGAIN = "Fetch the folder again, or save the model again."


@dataclass
class Folder:
    """A two-branch folder, as far as the checks have opened it."""

    path: Path
    dense: Checkpoint | None = None
    config: MetisHomeConfig | None = None
    tensors: dict[str, LazyTensor] = field(default_factory=dict)
    processor: Any = None

    @property
    def is_router_alone(self) -> bool:
        text = self.config.text_config
        return text.router_layer == text.num_hidden_layers


def check_configuration(folder: Folder) -> str:
    try:
        folder.config = read_config(folder.path, ARGUMENT, HYBRID)
    except Exception as error:  # the types of fields are checked with exceptions of their own
        raise ValueError(f"config.json cannot be used: {error} Correct it, or save the model again.") from error
    text = folder.config.text_config
    if folder.is_router_alone:
        return f"a router alone, after {text.router_layer} layers"
    return f"{text.branch_kind} branches in layers {text.router_layer} to {text.num_hidden_layers - 1}"


def check_files(folder: Folder) -> str:
    files = weight_files(folder.path, ARGUMENT)
    if (folder.path / INDEX).is_file() and (folder.path / "model.safetensors").is_file():
        raise ValueError(
            f"There are {INDEX} and model.safetensors, of which transformers would load the latter. Remove the one "
            "that is left over from an earlier save."
        )
    for path in files:
        for name, tensor in open_file(path, ARGUMENT).items():
            if name in folder.tensors:
                raise ValueError(f"The tensor {name} is stored twice, also in {path.name}. {AGAIN}")
            folder.tensors[name] = tensor
    check_index(folder.path, ARGUMENT, files, list(folder.tensors))
    size = sum(tensor.nbytes for tensor in folder.tensors.values())
    return f"{len(files)} with weights, {size / 1e9:.2f} GB"


def check_tensors(folder: Folder) -> str:
    shapes = {name: tensor.shape for name, tensor in folder.tensors.items()}
    if problems := tensor_problems(shapes, folder.config):
        raise ValueError("; ".join(problems) + f". {AGAIN}")
    return f"{len(shapes)}, all that the configuration calls for and no other"


def check_dtypes(folder: Folder) -> str:
    # The router is kept in fp32, and so are the changes that come from PEFT adapters.
    apart = {name for name in folder.tensors if ".router." in name or ".lora_" in name}
    types = {}
    for name, tensor in folder.tensors.items():
        if name not in apart:
            types.setdefault(tensor.dtype, []).append(name)
    if len(types) > 1:
        counts = {str(dtype).removeprefix("torch."): len(names) for dtype, names in types.items()}
        rare = min(types.values(), key=len)
        raise ValueError(
            f"The weights are of several types, {counts}: {some(rare)}. Load the model with one `dtype` and save it."
        )
    (dtype,) = types
    if odd := [name for name in apart if folder.tensors[name].dtype not in (dtype, torch.float32)]:
        raise ValueError(
            f"{some(sorted(odd))}: neither of the model's type {dtype} nor float32. Load the model and save it again."
        )
    types = {part: {folder.tensors[name].dtype for name in apart if part in name} for part in (".router.", ".lora_")}
    others = [f"{part.strip('._')} {dtype}" for part, found in types.items() for dtype in found]
    return ", ".join([str(dtype), *others]).replace("torch.", "")


def check_finite(folder: Folder) -> str:
    tensors = _read_all("Reading weights", folder.tensors)
    if wrong := [name for name, tensor in tensors if not torch.isfinite(tensor).all()]:
        raise ValueError(
            f"{len(wrong)} tensors hold NaN or infinite values: {some(wrong)}. The training diverged, or the files are "
            "damaged: go back to an earlier checkpoint, or fetch the folder again."
        )
    return "no NaN, no infinity"


def check_head(folder: Folder) -> str:
    head = folder.tensors.get(HEAD)
    if folder.is_router_alone:
        return "none, as for a router alone"
    if not folder.config.tie_word_embeddings:
        return "stored, not tied to the embeddings"
    if head is None:
        return "tied to the embeddings"
    if not torch.equal(head.read(), folder.tensors[EMBEDDINGS].read()):
        raise ValueError(
            f"`tie_word_embeddings` is true, but {HEAD} differs from {EMBEDDINGS}, and would be dropped on loading. "
            "Set `tie_word_embeddings` to false in config.json, or remove the tensor."
        )
    return "tied to the embeddings, and stored once more"


def check_parity(folder: Folder) -> str:
    dense = folder.dense.tensors
    compared = {}  # what is read to the name of the dense tensor that it shall equal
    for name in folder.tensors:
        if ".router." in name or ".lora_" in name or (name == HEAD and folder.config.tie_word_embeddings):
            continue
        compared[name] = name.replace(f".mlp.{_group(name)}.", ".mlp.")
    if unlike := [
        name
        for name, other in compared.items()
        if other not in dense or dense[other].shape != folder.tensors[name].shape
    ]:
        raise ValueError(
            f"{len(unlike)} tensors have no counterpart of their shape in `dense_model`: {some(unlike)}. It is another "
            "model than the one that was upcycled; give that one."
        )
    differences = {group: [] for group in ("shared", *BRANCHES)}
    for name, tensor in _read_all("Comparing", {name: folder.tensors[name] for name in compared}):
        differences[_group(name)].append(_largest(tensor, dense[compared[name]].read()))
    for name in folder.tensors:
        if name.endswith(".lora_B.weight"):
            A, B = (folder.tensors[name.replace(".lora_B.", half)].read().float() for half in (".lora_A.", ".lora_B."))
            text = folder.config.text_config
            # What the change adds to the dense weight, which is nothing before training.
            change = float((B @ A).abs().max()) * text.branch_alpha / text.branch_rank if B.any() else 0.0
            differences[_group(name)].append(change)
    found = "; ".join(
        f"{group}: {sum(value > 0 for value in values)} of {len(values)} tensors differ"
        + (f", by at most {max(values):.3g}" if any(values) else "")
        for group, values in differences.items()
        if values
    )
    if any(any(values) for values in differences.values()):
        raise ValueError(
            f"{found}. Training does this, and writing another `dtype` rounds; otherwise upcycle the dense model again."
        )
    return found


def _group(name: str) -> str:
    return next((branch for branch in BRANCHES if f".{branch}." in name), "shared")


def _largest(one: torch.Tensor, two: torch.Tensor) -> float:
    if one.dtype == two.dtype and torch.equal(one, two):
        return 0.0
    return float((one.float() - two.float()).abs().max())


def _read_all(title: str, tensors: dict[str, LazyTensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and tensors, one after another, with a progress bar on a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn(title), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("", total=sum(tensor.nbytes for tensor in tensors.values()))
        for name, tensor in tensors.items():
            yield name, tensor.read()
            progress.advance(task, tensor.nbytes)


def check_calibration(folder: Folder) -> str:
    if problem := calibration_problem(folder.path):
        raise ValueError(problem)
    calibration = folder.config.calibration
    if calibration is None:
        return f"none, threshold {folder.config.thinking_threshold:g}"
    return f"threshold {calibration['threshold']:.4g}, of {calibration.get('date')}, for these weights"
