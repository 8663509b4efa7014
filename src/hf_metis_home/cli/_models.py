"""A model and its processor by the name that a user gave."""

import sys
from pathlib import Path


def load_model(name: str, dtype: str = "auto", trust_remote_code: bool = False, revision: str | None = None):
    """
    A dense or two-branch model, ready to answer, on the GPU where there is one, and its processor. Warns where the
    model's threshold was calibrated with other weights.

    Args:
        name (`str`):
            Folder or Hub id.
        dtype (`str`, *optional*, defaults to `"auto"`):
            Of the weights.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether a repository may run its own code.
        revision (`str`, *optional*):
            Branch, tag or commit of a Hub repository; the newest of its main branch by default.

    Raises:
        ValueError: it cannot be loaded. The message names `--model_name_or_path` and what transformers said.
    """
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from transformers.utils import logging

    from ..conversion.fingerprint import calibration_problem
    from ..modeling import MetisHomeForConditionalGeneration  # noqa: F401  registers two-branch models

    # Said either way, because transformers asks on the terminal where it is not told.
    source = {"trust_remote_code": trust_remote_code, "revision": revision or "main"}
    if revision is not None and Path(name).is_dir():
        raise ValueError(
            f"`--model_revision` is {revision!r}, but `--model_name_or_path` is {name!r}, a folder, which has no "
            "revisions. Leave one out, or give the model's Hub id."
        )
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    try:
        model = AutoModelForImageTextToText.from_pretrained(name, dtype=dtype, **source)
        processor = AutoProcessor.from_pretrained(name, **source)
    except (OSError, ValueError) as error:
        at = "" if revision is None else f" at `--model_revision {revision}`"
        where = "" if Path(name).is_dir() else "is no folder here and "
        raise ValueError(
            f"`--model_name_or_path` is {name!r}, which {where}cannot be loaded{at}: {error}\nGive a folder that holds "
            "a model, such as `hybrid` in what `metis-home demo` wrote, or a Hub id."
        ) from error
    if problem := calibration_problem(name):
        print(f"warning: {problem}", file=sys.stderr)
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu"), processor
