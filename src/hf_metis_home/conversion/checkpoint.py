"""Checkpoint folders, opened without reading them: where each tensor is, and what it should be."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel


DENSE, HYBRID = "qwen2_5_vl", "metis_home"  # values of `model_type`
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
FFN = re.compile(r"model\.(language_model\.|text_model\.)?layers\.(?P<layer>\d+)\.(mlp|feed_forward)\.")
SHOWN_KEYS = 4  # names that an error spells out
FETCH = "Fetch or save the checkpoint again."
OF_THE_CLASS = {"model_type", "architectures", "auto_map", "transformers_version"}  # fields of a configuration
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass
class LazyTensor:
    """A tensor that is read or computed on demand. `stored`: its file and the offset of its bytes; None if computed."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], torch.Tensor]
    stored: tuple[Path, int] | None = None

    @classmethod
    def of(cls, tensor: torch.Tensor) -> "LazyTensor":
        return cls(tuple(tensor.shape), tensor.dtype, lambda: tensor)

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize

    def to(self, dtype: torch.dtype | None) -> "LazyTensor":
        if dtype in (None, self.dtype):
            return self
        return LazyTensor(self.shape, dtype, lambda: self.read().to(dtype))


@dataclass
class Checkpoint:
    """
    A folder of safetensors with a configuration.

    `tensors` has transformers v5 names; reading one maps it from its file without a copy. `layout` is `"native"` if
    the files use those names too, `"legacy"` if they use those of earlier versions (`model.layers.*`, `visual.*`), as
    on the Hub.
    """

    folder: Path
    config: PreTrainedConfig
    tensors: dict[str, LazyTensor]
    files: list[Path]
    layout: str


def sha256_of(files: list[Path]) -> dict[str, str]:
    """SHA-256 of each file, by its name."""
    digests = {}
    for path in files:
        with path.open("rb") as file:
            digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def open_checkpoint(model_name_or_path: str | Path, argument: str, model_type: str = DENSE) -> Checkpoint:
    """
    Open a checkpoint and compare the names and shapes of its tensors with what its configuration calls for.

    Args:
        model_name_or_path (`str` or `Path`):
            Local folder or Hub repository.
        argument (`str`):
            How errors name it.
        model_type (`str`, *optional*, defaults to `"qwen2_5_vl"`):
            `"qwen2_5_vl"` for dense checkpoints, `"metis_home"` for two-branch ones.

    Raises:
        FileNotFoundError: no such folder or repository, no safetensors, a missing shard.
        ValueError: another architecture, a quantised checkpoint, a damaged shard, an index that disagrees with the
            shards, tensors that are missing, extra, of another shape or not of a floating-point type.
    """
    folder = resolve_folder(model_name_or_path, argument)
    config = read_config(folder, argument, model_type)
    tensors, files, names = open_tensors(folder, argument)
    layout = "native" if any(name.startswith("model.language_model.") for name in names) else "legacy"
    check_tensors(tensors, config, argument, str(model_name_or_path))
    return Checkpoint(folder, config, tensors, files, layout)


def open_tensors(folder: Path, argument: str) -> tuple[dict[str, LazyTensor], list[Path], list[str]]:
    """The tensors of a folder by their v5 names, its weight files, and the tensors' stored names in the same order."""
    tensors, files, names = {}, weight_files(folder, argument), []
    if (folder / SINGLE).is_file() and folder / SINGLE not in files:
        raise ValueError(
            f"`{argument}` is {str(folder)!r}, with both {INDEX} and {SINGLE}; transformers would load the "
            "latter. Remove whichever is left over from an earlier save."
        )
    for path in files:
        for name, tensor in open_file(path, argument).items():
            native = native_name(name)
            if native in tensors:
                raise ValueError(
                    f"`{argument}` is {str(folder)!r}, in which the tensor {name} is stored twice, in "
                    f"{tensors[native].stored[0].name} and in {path.name}. {FETCH}"
                )
            tensors[native] = tensor
            names.append(name)
    if (folder / INDEX).is_file():
        indexed = {name for name in _weight_map(folder, argument) if not name.endswith(".inv_freq")}
        if wrong := sorted(indexed.symmetric_difference(names)):
            raise ValueError(
                f"`{argument}` is {str(folder)!r}, in which {INDEX} and the shards disagree on {len(wrong)} tensors: "
                f"{some(wrong)}. {FETCH}"
            )
    return tensors, files, names


def check_branches(hybrid: Checkpoint, model_name_or_path: str | Path, needed: Iterable[str], purpose: str) -> None:
    """Raise an error if a model was saved with one branch (`only_branch`) and `purpose` needs the other."""
    kept = hybrid.config.only_branch
    if missing := [branch for branch in needed if kept not in (None, branch)]:
        raise ValueError(
            f"`model_name_or_path` is {str(model_name_or_path)!r}, which was saved with `only_branch={kept!r}`: it "
            f"lacks the {missing[0]} branch, which {purpose} needs. Pass the folder it was loaded from, which has both "
            f"branches, or export {kept!r} with `format='dense'`."
        )


def resolve_folder(model_name_or_path: str | Path, argument: str, config_name: str = "config.json") -> Path:
    """
    The local folder of a checkpoint: the path itself, or the Hub repository's snapshot.

    Raises:
        FileNotFoundError: neither a folder with a configuration nor a repository that can be reached.
    """
    folder = Path(model_name_or_path)
    if folder.is_dir():
        if not (folder / config_name).is_file():
            raise FileNotFoundError(
                f"`{argument}` is {str(model_name_or_path)!r}, a folder without {config_name}. Pass a saved model."
            )
        return folder
    try:
        patterns = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.txt"]
        return Path(snapshot_download(str(model_name_or_path), allow_patterns=patterns))
    except Exception as error:
        raise FileNotFoundError(
            f"`{argument}` is {str(model_name_or_path)!r}, which is not a local folder and could not be fetched "
            f"from the Hub ({type(error).__name__}: {error}). Check the spelling, the network and HF_HUB_OFFLINE."
        ) from error


def model_type_of(model_name_or_path: str | Path) -> str | None:
    """The `model_type` of a local folder; None if it has no configuration, or is a Hub id."""
    path = Path(model_name_or_path) / "config.json"
    return json.loads(path.read_text(encoding="utf-8")).get("model_type") if path.is_file() else None


def read_config(folder: Path, argument: str, model_type: str = DENSE) -> PreTrainedConfig:
    """The configuration in a folder. Raises an error for any architecture but `model_type`."""
    from ..modeling import BACKBONES, MetisHomeConfig

    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"`{argument}` is {str(folder)!r}, with a damaged config.json ({error!r}). {FETCH}") from error
    if found != model_type:
        known = {DENSE: "a dense Qwen2.5-VL", HYBRID: "a two-branch model"}
        hint = f" It is {known[found]}." if found in known else ""
        hint += " `metis-home upcycle` gives it two branches." if found == DENSE else ""
        if found in BACKBONES and found != DENSE:
            hint += " Its models become hybrids in memory, with `upcycle()`; its folders cannot be converted yet."
        raise ValueError(f"`{argument}` is {str(folder)!r}, of model_type {found!r}, not {known[model_type]}.{hint}")
    config = (MetisHomeConfig if model_type == HYBRID else AutoConfig).from_pretrained(folder)
    if getattr(config, "quantization_config", None) is not None:
        raise ValueError(f"`{argument}` is {str(folder)!r}, a quantised checkpoint. Convert the original weights.")
    return config


def weight_files(folder: Path, argument: str) -> list[Path]:
    if (folder / INDEX).is_file():
        names = sorted(set(_weight_map(folder, argument).values()))
    elif (folder / SINGLE).is_file():
        names = [SINGLE]
    else:
        pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
        raise FileNotFoundError(
            f"`{argument}` is {str(folder)!r}, which has neither {SINGLE} nor {INDEX}. Only safetensors are read"
            + (f"; {pickled[0]} is a pickle, which can run code" if pickled else "")
            + ". Load the model where you trust it and write it again with `save_pretrained`."
        )
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise FileNotFoundError(f"`{argument}` is {str(folder)!r}, with missing shards: {some(missing)}. {FETCH}")
    return [folder / name for name in names]


def _weight_map(folder: Path, argument: str) -> dict[str, str]:
    try:
        weight_map = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        if not isinstance(weight_map, dict) or not weight_map:
            raise ValueError("its weight_map is empty")
        return weight_map
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"`{argument}` is {str(folder)!r}, with a damaged {INDEX} ({error!r}). {FETCH}") from error


def open_file(path: Path, argument: str) -> dict[str, LazyTensor]:
    """The tensors of one safetensors file by their stored names."""
    try:
        safe_open(path, framework="pt")  # checks the header and the size of the file
    except SafetensorError as error:
        raise ValueError(f"`{argument}`: {str(path)!r} is truncated or damaged ({error}). {FETCH}") from error
    with path.open("rb") as raw:
        size = int.from_bytes(raw.read(8), "little")
        header = json.loads(raw.read(size))
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__" or name.endswith(".inv_freq"):
            continue  # `inv_freq` is a buffer in old checkpoints, which the model computes itself
        if entry["dtype"] not in DTYPES:
            raise ValueError(
                f"`{argument}`: {name} in {str(path)!r} has dtype {entry['dtype']}, but weights must be one of "
                f"{list(DTYPES)}. Convert the original weights, not quantised ones."
            )
        stored = path, 8 + size + entry["data_offsets"][0]
        tensors[name] = LazyTensor(tuple(entry["shape"]), DTYPES[entry["dtype"]], partial(_read, path, name), stored)
    return tensors


def _read(path: Path, name: str) -> torch.Tensor:
    with safe_open(path, framework="pt") as file:
        return file.get_tensor(name)


def native_name(name: str) -> str:
    """The transformers v5 name (`model.language_model.*`, `model.visual.*`) of a tensor named in either layout."""
    if name.startswith(("visual.", "language_model.")):
        return f"model.{name}"
    if name.startswith(("model.layers.", "model.embed_tokens.", "model.norm.")):
        return f"model.language_model.{name.removeprefix('model.')}"
    return name


def legacy_name(name: str) -> str:
    """The name of a tensor in the layout of earlier checkpoints (`model.layers.*`, `visual.*`), from its v5 name."""
    if name.startswith("model.visual."):
        return name.removeprefix("model.")
    return name.replace("model.language_model.", "model.", 1)


def is_branch_tensor(name: str, router_layer: int) -> bool:
    """Whether a dense tensor goes into both branches: the feed-forward weights from layer `router_layer` on."""
    layer = FFN.match(name)
    return layer is not None and int(layer["layer"]) >= router_layer


def branch_name(name: str, branch: str) -> str:
    """The name of a feed-forward tensor in a branch, from its dense name."""
    return FFN.sub(rf"\g<0>{branch}.", name)


def check_tensors(tensors: dict, config: PreTrainedConfig, argument: str, source: str) -> None:
    """
    Compare names and shapes with what the configuration calls for.

    Args:
        tensors (`dict[str, LazyTensor]` or `dict[str, torch.Tensor]`):
            By v5 name.
        config ([`~transformers.Qwen2_5_VLConfig`] or [`MetisHomeConfig`]):
            The source's.
        argument, source (`str`):
            How an error names the source: the argument and its value.

    Raises:
        ValueError: lists every difference: missing tensors, unexpected ones, wrong shapes.
    """
    from ..modeling import MetisHomeConfigMixin

    problems = tensor_problems({name: tuple(tensor.shape) for name, tensor in tensors.items()}, config)
    if problems:
        kind = "two-branch" if isinstance(config, MetisHomeConfigMixin) else f"dense {config.model_type}"
        raise ValueError(
            f"`{argument}` is not a complete {kind} checkpoint ({source}); nothing was converted.\n- "
            + "\n- ".join(problems)
            + "\nPass a complete checkpoint with its own config.json."
        )


def tensor_problems(shapes: dict[str, tuple[int, ...]], config: PreTrainedConfig) -> list[str]:
    """Every difference between the given tensors and those that the configuration calls for."""
    expected = expected_shapes(config)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()  # stored or not
    problems = []
    if missing := sorted(expected.keys() - shapes.keys() - tied):
        problems.append(f"{len(missing)} tensors are missing: {some(missing)}")
    if extra := sorted(shapes.keys() - expected.keys()):
        problems.append(f"{len(extra)} tensors are not part of the model: {some(extra)}")
    wrong = [
        f"{name} is {shapes[name]}, expected {expected[name]}"
        for name in sorted(expected.keys() & shapes.keys())
        if shapes[name] != expected[name]
    ]
    if wrong:
        problems.append(f"{len(wrong)} tensors have the wrong shape: {some(wrong)}")
    return problems


def dense_class(backbone: str) -> type[PreTrainedModel]:
    """The dense model with a head of a backbone that a hybrid can be built on."""
    from ..modeling import hybrid_classes

    return hybrid_classes(backbone)[2].__bases__[1]


def expected_shapes(config: PreTrainedConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of the model that a configuration describes."""
    from ..modeling import BACKBONES, MetisHomeForConditionalGeneration, MetisHomeModel

    with torch.device("meta"):
        if config.model_type in BACKBONES:
            model = dense_class(config.model_type)(config)
        elif config.is_router_only:
            model = torch.nn.ModuleDict({"model": MetisHomeModel(config)})  # a router has no head
        else:
            model = MetisHomeForConditionalGeneration(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def some(items: Sequence) -> str:
    """The first items of a list, for an error, and how many more there are."""
    shown = ", ".join(map(str, items[:SHOWN_KEYS]))
    return shown if len(items) <= SHOWN_KEYS else f"{shown} and {len(items) - SHOWN_KEYS} more"
