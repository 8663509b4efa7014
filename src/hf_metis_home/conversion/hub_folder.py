"""A complete Hub repository on disk: weights, remote code, processor, generation config and card, or nothing at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..hub_templates import render_model_card


def check_output_dir(output_dir: str | Path, argument: str = "output_dir") -> Path:
    """The path of a folder that can be written. An error where it holds something already."""
    output_dir = Path(output_dir)
    if output_dir.is_file() or (output_dir.is_dir() and any(output_dir.iterdir())):
        raise FileExistsError(
            f"`{argument}` is {str(output_dir)!r}, which exists and is not empty. Choose another folder or remove it; "
            "nothing is overwritten."
        )
    return output_dir


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
            Facts for the README that the configuration does not hold, as
            [`~hub_templates.render_model_card`] takes them.

    Returns:
        `Path`: `output_dir`.
    """
    card = {
        "router_layer": model.config.text_config.router_layer,
        "thinking_threshold": model.config.thinking_threshold,
        **card,
    }
    with staged_folder(output_dir) as staging:
        model.save_pretrained(staging)
        processor.save_pretrained(staging)
        for name, text in {"README.md": render_model_card(**card), **(files or {})}.items():
            (staging / name).write_text(text, encoding="utf-8")
    return Path(output_dir)


@contextmanager
def staged_folder(output_dir: str | Path) -> Iterator[Path]:
    """
    A new folder beside `output_dir`, moved into its place when the block ends, removed when the block fails.

    Raises:
        FileExistsError: `output_dir` has content.
    """
    output_dir = check_output_dir(output_dir)
    staging = output_dir.parent / f".{output_dir.name}.{os.getpid()}.partial"
    staging.mkdir(parents=True)
    try:
        yield staging
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    if output_dir.is_dir():
        output_dir.rmdir()
    shutil.move(staging, output_dir)
