"""A complete Hub repository on disk: weights, remote code, processor, generation config and card, or nothing at all."""

from pathlib import Path

import torch
from transformers import GenerationConfig
from transformers.dynamic_module_utils import custom_object_save

from .._folders import staged_folder
from ..hub_templates.model_card import write_model_card
from ..modeling import MetisHomeConfig, MetisHomeForConditionalGeneration, MetisHomeModel


def save_hub_folder(model, processor, output_dir: str | Path, *, files: dict[str, str] | None = None, **card) -> Path:
    """
    Write everything that `from_pretrained(..., trust_remote_code=True)` and a reader of the repository need.

    The files are written beside `output_dir` and moved into place when all are there.

    Args:
        model ([`MetisHomeForConditionalGeneration`]):
            Saved with its code (`auto_map` names AutoConfig, AutoModel and AutoModelForImageTextToText).
        processor ([`~transformers.Qwen2_5_VLProcessor`]):
            Saved with its chat template.
        output_dir (`str` or `Path`):
            Must not exist, or be empty.
        files (`dict[str, str]`, *optional*):
            Further text files: name to content.
        card:
            Facts for the README that neither the configuration nor `files` hold, as
            [`~hub_templates.cards.model_card_parts`] takes them.

    Returns:
        `Path`: `output_dir`.
    """
    with staged_folder(output_dir) as staging:
        model.save_pretrained(staging)
        write_around(staging, processor, files, **card)
    return Path(output_dir)


def write_around(folder: Path, processor, files: dict[str, str] | None = None, **card) -> None:
    """What stands in a Hub folder beside the model: processor, further text files, and the card that tells of all."""
    processor.save_pretrained(folder)
    for name, text in (files or {}).items():
        (folder / name).write_text(text, encoding="utf-8")
    write_model_card(folder, **card)


def local_sources(*sources: str | Path | None) -> list[str]:
    """For the record of a command: which of its sources are folders, which later look like ids of the Hub."""
    return [str(source) for source in sources if source is not None and Path(source).exists()]


def copy_generation_config(source: Path, folder: Path) -> None:
    """The defaults of `generate`, where the source has any."""
    if (source / "generation_config.json").is_file():
        GenerationConfig.from_pretrained(source).save_pretrained(folder)


def write_model_files(folder: Path, config: MetisHomeConfig, dtype: torch.dtype) -> None:
    """The configuration and the code that the weights in a folder belong to, as `save_pretrained` writes them."""
    alone = config.text_config.router_layer == config.text_config.num_hidden_layers
    with torch.device("meta"):
        model = (MetisHomeModel if alone else MetisHomeForConditionalGeneration)(config)
    config.architectures, config.dtype = [type(model).__name__], dtype
    custom_object_save(model, folder, config=config)
    config.save_pretrained(folder)
