"""A complete Hub repository on disk: weights, remote code, processor, generation config and card, or nothing at all."""

import errno
import glob
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import GenerationConfig
from transformers.dynamic_module_utils import custom_object_save

from ..hub_templates import render_model_card
from ..modeling import MetisHomeConfig, MetisHomeForConditionalGeneration, MetisHomeModel


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_in_use: set[Path] = set()  # folders that this process is writing


def check_output_dir(output_dir: str | Path, argument: str = "output_dir") -> Path:
    """The path of a folder that can be written. An error where it holds something already, or cannot be replaced."""
    output_dir = Path(output_dir)
    if output_dir.is_file() or (output_dir.is_dir() and any(output_dir.iterdir())):
        raise FileExistsError(
            f"`{argument}` is {str(output_dir)!r}, which exists and is not empty. Choose another folder or remove it; "
            "nothing is overwritten."
        )
    if os.path.ismount(output_dir):
        raise OSError(
            f"`{argument}` is {str(output_dir)!r}, where a disk is mounted, but the folder is made elsewhere and moved "
            "to its place. Choose a folder on that disk."
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
    with staged_folder(output_dir) as staging:
        model.save_pretrained(staging)
        write_around(staging, model.config, processor, files, **card)
    return Path(output_dir)


def write_around(folder: Path, config, processor, files: dict[str, str] | None = None, **card) -> None:
    """What stands in a Hub folder beside the model: processor, card and further text files."""
    text = config.text_config
    about = {
        "branch_kind": text.branch_kind,
        "router_layer": text.router_layer,
        "thinking_threshold": config.thinking_threshold,
    }
    processor.save_pretrained(folder)
    for name, text in {"README.md": render_model_card(**{**about, **card}), **(files or {})}.items():
        (folder / name).write_text(text, encoding="utf-8")


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


@contextmanager
def staged_folder(output_dir: str | Path) -> Iterator[Path]:
    """
    A new folder beside `output_dir`, moved into its place when the block ends, removed when the block fails.

    What a killed process of this machine left there is removed first. Where `output_dir` is a link, its target counts.

    Raises:
        FileExistsError: `output_dir` has content.
        OSError: the folder cannot be made, written or moved.
    """
    check_output_dir(output_dir)
    target, host = Path(output_dir).resolve(), socket.gethostname()
    staging = target.parent / f".{target.name}.{host}.{os.getpid()}.partial"
    for left in target.parent.glob(f".{glob.escape(target.name)}.{glob.escape(host)}.*.partial"):
        # In a container, the process that died and the one that comes next often have the same number.
        dead = left not in _in_use if left == staging else not _is_running(left.suffixes[-2].removeprefix("."))
        if dead:
            shutil.rmtree(left, ignore_errors=True)
    try:
        staging.mkdir(parents=True)
    except OSError as error:
        raise OSError(
            f"`output_dir` is {str(output_dir)!r}, beside which no folder can be made ({error}). Choose a place where "
            "you may write."
        ) from error
    _in_use.add(staging)
    try:
        yield staging
        _move(staging, target)
    except BaseException as error:
        shutil.rmtree(staging, ignore_errors=True)
        if isinstance(error, SafetensorError) or (isinstance(error, OSError) and error.errno in NO_ROOM):
            raise OSError(
                f"`output_dir` is {str(output_dir)!r}, which could not be written ({error}). Nothing is left of it; "
                "free some space or choose another folder, and run again."
            ) from error
        raise
    finally:
        _in_use.discard(staging)


def _move(staging: Path, target: Path) -> None:
    try:
        if target.is_dir():
            target.rmdir()
        staging.rename(target)
    except OSError as error:
        raise OSError(
            f"`output_dir` is {str(target)!r}, whose place something else has taken meanwhile ({error}). Choose "
            "another folder and run again."
        ) from error


def _is_running(process_id: str) -> bool:
    try:
        os.kill(int(process_id), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        pass  # somebody else's
    return True
