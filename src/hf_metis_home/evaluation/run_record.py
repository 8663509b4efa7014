"""One run of `metis-home eval`: what its results depend on, and the record of it."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path

from datasets import Dataset
from transformers.utils import CONFIG_NAME, cached_file
from transformers.utils.hub import extract_commit_hash

from .._versions import versions
from ..conversion.fingerprint import calibration_problem, weights_fingerprint
from ..tasks.questions import fingerprint


# What answers depend on besides model and questions.
OPTIONS = ("max_new_tokens", "batch_size", "samples", "temperature", "seed")


def run_settings(arguments: dict, model, rows) -> dict:
    """What an interrupted run must have in common with the run that continues it; `commit` is None for a folder."""
    name, folder = arguments["model_name_or_path"], _folder(arguments)
    return {
        "model_name_or_path": name,
        "weights": weights_fingerprint(folder),
        "commit": None if Path(name).is_dir() else extract_commit_hash(str(folder / CONFIG_NAME), None),
        "model": hashlib.sha256(model.config.to_json_string(use_diff=False).encode()).hexdigest(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "questions": fingerprint(rows),
        **{name: arguments[name] for name in OPTIONS},
    }


def _folder(arguments: dict) -> Path:
    """The model's folder; for a Hub model the snapshot in the cache that it was loaded from."""
    name = arguments["model_name_or_path"]
    if Path(name).is_dir():
        return Path(name)
    return Path(cached_file(name, CONFIG_NAME, revision=arguments["model_revision"])).parent


def run_record(arguments: dict, model, settings: dict, sources: dict, outcomes: Dataset, seconds: float) -> dict:
    """
    The record of a run, as `run.json` contains it.

    Args:
        arguments (`dict`):
            Of the command.
        model:
            The model that answered.
        settings (`dict`):
            As [`run_settings`] returns them.
        sources (`dict`):
            Where tasks from the Hub come from, as [`~tasks.questions.load_questions`] returns it.
        outcomes ([`~datasets.Dataset`]):
            The answers.
        seconds (`float`):
            Time of this run, without the runs that it continues.

    Returns:
        `dict`: `arguments`, `versions`, `date`, `model` (name, hash of its configuration, fingerprint of its weights,
        what is wrong with its calibration, type, device, answer format), `questions_sha256`, `thinking_threshold`,
        `tasks` (the sources), `rows`, `failed`, `seconds_last_run`, and `seconds_generating`, for all answers.
    """
    problem = calibration_problem(_folder(arguments))
    generating = [value for mode in ("thinking", "non_thinking") for value in outcomes[f"seconds_{mode}"]]
    return {
        "arguments": arguments,
        "versions": versions(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": {
            "name": settings["model_name_or_path"],
            "config_sha256": settings["model"],
            "weights": settings["weights"],
            **({"calibration": problem} if problem else {}),
            "dtype": settings["dtype"],
            "device": str(model.device),
            "answer_format": getattr(model.config, "answer_format", None),
        },
        "questions_sha256": settings["questions"],
        "thinking_threshold": getattr(model.config, "thinking_threshold", None),
        "tasks": sources,
        "rows": len(outcomes),
        "failed": sum(error is not None for error in outcomes["error"]),
        "seconds_last_run": round(seconds, 3),
        "seconds_generating": round(sum(value for value in generating if value is not None), 3),
    }
