"""A complete model folder, ready for the Hub: weights, configuration, code, processor, generation settings and card."""

import json
from pathlib import Path

from transformers import AutoProcessor, GenerationConfig, PreTrainedConfig
from transformers.dynamic_module_utils import custom_object_save

from .._folders import staged_folder
from ..hub_templates.model_card import write_model_card
from ..modeling import MetisHomeConfig, MetisHomeForConditionalGeneration, MetisHomeModel
from .checkpoint import DENSE, Checkpoint, LazyTensor
from .tensor_writer import shard_limit, write_shards


def save_hub_folder(model, processor, output_dir: str | Path, **card) -> Path:
    """
    Write everything that `from_pretrained(..., trust_remote_code=True)` and a reader of the repository need.

    The folder is written next to `output_dir` and moved into place once it is complete.

    Args:
        model ([`MetisHomeForConditionalGeneration`]):
            Saved with its code (`auto_map` names AutoConfig, AutoModel and AutoModelForImageTextToText).
        processor ([`~transformers.Qwen2_5_VLProcessor`]):
            Saved with its chat template.
        output_dir (`str` or `Path`):
            Must not exist, or be empty.
        card:
            Facts for the README that the configuration does not have, as [`~hub_templates.cards.model_card_parts`]
            takes them.

    Returns:
        `Path`: `output_dir`.
    """
    with staged_folder(output_dir) as staging:
        model.save_pretrained(staging)
        processor.save_pretrained(staging)
        write_model_card(staging, **card)
    return Path(output_dir)


def write_model(
    folder: Path,
    tensors: dict[str, LazyTensor],
    config: PreTrainedConfig,
    source: Checkpoint,
    model_class: type,
    processor=None,
) -> None:
    """
    Write a model from tensors that are read one at a time, as `save_pretrained` would, with its processor.

    Args:
        folder (`Path`):
            An empty folder.
        tensors (`dict[str, LazyTensor]`):
            By the name to write.
        config ([`~transformers.PreTrainedConfig`]):
            Its `dtype` is the tensors'.
        source ([`~conversion.checkpoint.Checkpoint`]):
            What the model is made from: gives the size of shards, the generation settings and the processor.
        model_class (`type`):
            Class of the model. Its code goes into the folder unless it is transformers' own.
        processor (*optional*):
            Instead of the source's.
    """
    write_shards(folder, tensors, shard_limit(source.files))
    config.architectures = [model_class.__name__]
    if config.model_type != DENSE:
        custom_object_save(model_class, folder)
    config.save_pretrained(folder)
    if (source.folder / "generation_config.json").is_file():
        GenerationConfig.from_pretrained(source.folder).save_pretrained(folder)
    (processor or AutoProcessor.from_pretrained(source.folder)).save_pretrained(folder)


def write_hybrid(
    folder: Path, tensors: dict[str, LazyTensor], config: MetisHomeConfig, source: Checkpoint, processor=None
) -> None:
    """[`write_model`] for a two-branch model, or for its router only."""
    model_class = MetisHomeModel if config.is_router_only else MetisHomeForConditionalGeneration
    write_model(folder, tensors, config, source, model_class, processor)


def write_record(folder: Path, name: str, record: dict) -> None:
    """Write the JSON record of the command that made a two-branch folder, and the card, which reads it."""
    (folder / name).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    write_model_card(folder)


def local_sources(*sources: str | Path | None) -> list[str]:
    """Which of a command's sources are folders here; for its record, where they look like Hub ids later."""
    return [str(source) for source in sources if source is not None and Path(source).exists()]
