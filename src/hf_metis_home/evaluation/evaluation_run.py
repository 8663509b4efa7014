"""One run of `metis-home eval`: what its results depend on, its answers, and the record of it."""

import hashlib
import json
import platform
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from datasets import Dataset
from transformers.utils import CONFIG_NAME, cached_file
from transformers.utils.hub import extract_commit_hash

from ..answers.matching import answers_match
from ..conversion.fingerprint import calibration_problem, weights_fingerprint
from ..data.work_file import WorkFile
from ..tasks.questions import fingerprint
from .outcomes import collect_outcomes


PACKAGES = ("hf-metis-home", "torch", "transformers", "datasets", "math-verify", "reasoning-gym")
# What answers depend on beside model and questions.
OPTIONS = ("max_new_tokens", "batch_size", "samples", "temperature", "seed")


def settings_of(arguments: dict, model, rows) -> dict:
    """What an interrupted run must share with the one that goes on; `commit` is None for a folder."""
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
    """The model's folder; of a Hub model the snapshot in the cache, from which it was loaded."""
    name = arguments["model_name_or_path"]
    if Path(name).is_dir():
        return Path(name)
    return Path(cached_file(name, CONFIG_NAME, revision=arguments["model_revision"])).parent


def answer_all(model, processor, rows, arguments: dict, work: WorkFile) -> tuple[Dataset, float]:
    """Outcomes of all rows, with a bar on a terminal, and the seconds that this run took for them."""
    from rich.progress import Progress

    started = time.perf_counter()
    with Progress(transient=True, disable=not sys.stderr.isatty()) as progress:
        bar = progress.add_task("Answering", total=len(rows))
        outcomes = collect_outcomes(
            model,
            processor,
            rows,
            match=answers_match,
            work=work,
            progress=lambda count: progress.advance(bar, count),
            **{name: arguments[name] for name in OPTIONS},
        )
    return outcomes, time.perf_counter() - started


def write_run(
    path: Path, arguments: dict, model, settings: dict, sources: dict, outcomes: Dataset, seconds: float
) -> None:
    """
    Write the record of a run.

    It holds `arguments`, `versions`, `date`, `model` (name, hash of its configuration, fingerprint of its
    weights, type, and what is wrong with its calibration), `questions_sha256`,
    `thinking_threshold`, `tasks` (where those from the Hub come from), `rows`, `failed`, `seconds_last_run` (since the
    last interruption, if there was one) and `seconds_generating` (of all answers, inside `generate`).
    """
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    generating = [value for mode in ("thinking", "non_thinking") for value in outcomes[f"seconds_{mode}"]]
    record = {
        "arguments": arguments,
        "versions": versions,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": {
            "name": settings["model_name_or_path"],
            "config_sha256": settings["model"],
            **_weights(settings, _folder(arguments)),
            "dtype": settings["dtype"],
            "device": str(model.device),
        },
        "questions_sha256": settings["questions"],
        "thinking_threshold": getattr(model.config, "thinking_threshold", None),
        "tasks": sources,
        "rows": len(outcomes),
        "failed": sum(error is not None for error in outcomes["error"]),
        "seconds_last_run": round(seconds, 3),
        "seconds_generating": round(sum(value for value in generating if value is not None), 3),
    }
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _weights(settings: dict, folder: Path) -> dict:
    problem = calibration_problem(folder)
    return {"weights": settings["weights"]} | ({"calibration": problem} if problem else {})
