"""A model and its processor by the name that a user gave."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ._arguments import flag


@dataclass(kw_only=True)
class ModelArguments:
    """The flags of verbs that load a model."""

    model_name_or_path: str = flag("two-branch or dense model, folder or Hub id")
    model_revision: str | None = flag("branch, tag or commit of the Hub repository (default: the newest)", None)
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = flag("data type to load the weights in", "auto")
    trust_remote_code: bool = flag("allow a repository to run its own code", False)


def load_model(name: str, dtype: str = "auto", trust_remote_code: bool = False, revision: str | None = None):
    """
    A dense or two-branch model, on the GPU if there is one, and its processor. Warns if the model's threshold was
    calibrated with other weights.

    Args:
        name (`str`):
            Folder or Hub id.
        dtype (`str`, *optional*, defaults to `"auto"`):
            Of the weights.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether a repository may run its own code.
        revision (`str`, *optional*):
            Branch, tag or commit of a Hub repository; by default the main branch.

    Raises:
        ValueError: it cannot be loaded. The message names `--model_name_or_path` and gives transformers' reason.
    """
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from transformers.utils import logging

    from ..conversion.fingerprint import calibration_problem
    from ..modeling import MetisHomeForConditionalGeneration  # noqa: F401  registers two-branch models

    # Always given, because otherwise transformers asks on the terminal.
    source = {"trust_remote_code": trust_remote_code, "revision": revision or "main"}
    if revision is not None and Path(name).is_dir():
        raise ValueError(
            f"`--model_revision` is {revision!r}, but `--model_name_or_path` is {name!r}, a folder, which has no "
            "revisions. Remove the flag, or give the model's Hub id."
        )
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    try:
        model = AutoModelForImageTextToText.from_pretrained(name, dtype=dtype, **source)
        processor = AutoProcessor.from_pretrained(name, **source)
    except (OSError, ValueError) as error:
        at = "" if revision is None else f" at `--model_revision {revision}`"
        where = "" if Path(name).is_dir() else "is not a local folder and "
        raise ValueError(
            f"`--model_name_or_path` is {name!r}, which {where}cannot be loaded{at}: {error}\nGive a model folder, "
            "such as runs/demo/hybrid from `metis-home demo`, or a Hub id."
        ) from error
    if problem := calibration_problem(name):
        print(f"warning: {problem}", file=sys.stderr)
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu"), processor
