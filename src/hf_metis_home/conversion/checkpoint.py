"""Dense Qwen2.5-VL checkpoints: reading, naming and accounting for every tensor before anything is built on them."""

import json
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from safetensors.torch import load_file
from transformers import AutoConfig, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration


SOURCE_MODEL_TYPE = "qwen2_5_vl"
SHOWN_KEYS = 4  # tensor names an error spells out


def resolve_folder(model_name_or_path: str | Path, argument: str) -> Path:
    """
    The local folder of a checkpoint: the path itself, or the Hub repository's snapshot.

    Raises:
        FileNotFoundError: neither a folder with a `config.json` nor a repository that can be reached.
    """
    folder = Path(model_name_or_path)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(
                f"`{argument}` is {str(model_name_or_path)!r}, a folder without a config.json. Pass the folder that "
                "`save_pretrained` wrote, or a Hub repository id."
            )
        return folder
    try:
        patterns = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.txt"]
        return Path(snapshot_download(str(model_name_or_path), allow_patterns=patterns))
    except Exception as error:
        raise FileNotFoundError(
            f"`{argument}` is {str(model_name_or_path)!r}, which is not a folder here and could not be fetched from "
            f"the Hub ({type(error).__name__}: {error}). Check the spelling, the network and HF_HUB_OFFLINE."
        ) from error


def read_config(folder: Path, argument: str) -> Qwen2_5_VLConfig:
    """The configuration of a dense Qwen2.5-VL checkpoint. An error for any other architecture."""
    model_type = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    if model_type != SOURCE_MODEL_TYPE:
        hint = " It is a two-branch model already." if model_type == "metis_home" else ""
        raise ValueError(
            f"`{argument}` is {str(folder)!r}, whose model_type is {model_type!r}, but only dense Qwen2.5-VL "
            f"checkpoints ({SOURCE_MODEL_TYPE!r}) can be upcycled.{hint}"
        )
    config = AutoConfig.from_pretrained(folder)
    if getattr(config, "quantization_config", None) is not None:
        raise ValueError(
            f"`{argument}` is {str(folder)!r}, a quantised checkpoint. Upcycle the original weights and quantise the "
            "result."
        )
    return config


def read_tensors(folder: Path, argument: str) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint folder under transformers v5 names, on the CPU in the stored dtype."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    elif (folder / "model.safetensors").is_file():
        names = ["model.safetensors"]
    else:
        raise FileNotFoundError(
            f"`{argument}` is {str(folder)!r}, which holds neither model.safetensors nor model.safetensors.index.json. "
            "Only safetensors are read; convert other formats with `save_pretrained` first."
        )
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"`{argument}` is {str(folder)!r}, whose index names shards that are absent: {missing}."
        )
    tensors = {}
    for name in names:
        tensors.update(load_file(folder / name))
    return {native_name(name): tensor for name, tensor in tensors.items() if not name.endswith(".inv_freq")}


def native_name(name: str) -> str:
    """
    The transformers v5 name of a tensor (`model.language_model.*`, `model.visual.*`) from that name or from the layout
    of earlier checkpoints (`model.layers.*`, `visual.*`).
    """
    if name.startswith(("visual.", "language_model.")):
        return f"model.{name}"
    if name.startswith(("model.layers.", "model.embed_tokens.", "model.norm.")):
        return f"model.language_model.{name.removeprefix('model.')}"
    return name


def check_tensors(tensors: dict[str, torch.Tensor], config: Qwen2_5_VLConfig, argument: str, source: str) -> None:
    """
    Compare names and shapes with what the configuration calls for.

    Args:
        tensors (`dict[str, torch.Tensor]`):
            In v5 names. A tied head is taken out.
        config ([`~transformers.Qwen2_5_VLConfig`]):
            The source's.
        argument, source (`str`):
            How an error names the source: the argument and its value.

    Raises:
        ValueError: naming every difference: tensors that are missing, that nothing asks for, or of another shape.
    """
    with torch.device("meta"):
        expected = Qwen2_5_VLForConditionalGeneration(config).state_dict()
    if config.tie_word_embeddings:
        expected.pop("lm_head.weight", None)
        tensors.pop("lm_head.weight", None)
    problems = []
    if missing := sorted(expected.keys() - tensors.keys()):
        problems.append(f"{len(missing)} tensors are missing: {_some(missing)}")
    if extra := sorted(tensors.keys() - expected.keys()):
        problems.append(f"{len(extra)} tensors belong to no part of the model: {_some(extra)}")
    shapes = [
        f"{name} is {tuple(tensors[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in sorted(expected.keys() & tensors.keys())
        if tensors[name].shape != expected[name].shape
    ]
    if shapes:
        problems.append(f"{len(shapes)} tensors have another shape than the config says: {_some(shapes)}")
    if problems:
        raise ValueError(
            f"`{argument}` is not a complete Qwen2.5-VL checkpoint ({source}); nothing was converted.\n- "
            + "\n- ".join(problems)
            + "\nGive the whole checkpoint and the config.json that belongs to it; fetch or save it again if need be."
        )


def _some(items: list[str]) -> str:
    shown = ", ".join(items[:SHOWN_KEYS])
    return shown if len(items) <= SHOWN_KEYS else f"{shown} and {len(items) - SHOWN_KEYS} more"
