"""A model and its processor by the name that a user gave."""

import sys


def load_model(name: str, dtype: str = "auto", trust_remote_code: bool = False):
    """
    A dense or two-branch model, ready to answer, on the GPU where there is one, and its processor. Warns where the
    model's threshold was calibrated with other weights.

    Raises:
        ValueError: it cannot be loaded. The message names `--model_name_or_path` and what transformers said.
    """
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from ..conversion.fingerprint import calibration_problem
    from ..modeling import MetisHomeForConditionalGeneration  # noqa: F401  registers two-branch models

    # Said either way, because transformers asks on the terminal where it is not told.
    trust = {"trust_remote_code": trust_remote_code}
    try:
        model = AutoModelForImageTextToText.from_pretrained(name, dtype=dtype, **trust)
        processor = AutoProcessor.from_pretrained(name, **trust)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"`--model_name_or_path` is {name!r}, which cannot be loaded: {error}\nGive a folder or a Hub id."
        ) from error
    if problem := calibration_problem(name):
        print(f"warning: {problem}", file=sys.stderr)
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu"), processor
