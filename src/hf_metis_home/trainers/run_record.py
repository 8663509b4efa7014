"""What a run was: its settings, versions and figures, beside its output and on its card."""

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .parameter_groups import count_trainable


PACKAGES = ("hf-metis-home", "torch", "transformers", "trl", "peft", "accelerate", "datasets")
SECRETS = ("token", "key", "password")

# Last logged values that a card tells, and how.
FIGURES = {
    "router_accuracy": "router accuracy on the training rows",
    "thinking_ratio": "thinking ratio on the training rows",
    "reward": "mean reward of the rollouts",
    "eval_loss": "evaluation loss",
    "eval_router_accuracy": "router accuracy on the evaluation rows",
    "eval_accuracy": "accuracy on the evaluation rows, answered as routed",
    "eval_thinking_ratio": "thinking ratio on the evaluation rows",
}


def write_run(trainer) -> Path:
    """
    Write `run.json` into the output folder of a trainer.

    It holds `arguments` (the configuration, without secrets), `versions`, `parameters` (group to trained and all),
    `datasets` (rows and fingerprint) and `model`.

    Returns:
        `Path` of the file.
    """
    arguments = {name: value for name, value in trainer.args.to_dict().items() if not _is_secret(name)}
    datasets = {"train": trainer.train_dataset, "eval": trainer.eval_dataset}
    record = {
        "trainer": type(trainer).__name__,
        "model": str(trainer.model.config._name_or_path),
        "processes": trainer.accelerator.num_processes,
        "datasets": {name: _describe(dataset) for name, dataset in datasets.items() if dataset is not None},
        "parameters": count_trainable(trainer.plain_model),
        "versions": {"python": platform.python_version(), **_versions()},
        "arguments": arguments,
    }
    path = Path(trainer.args.output_dir) / "run.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=2, default=str) + "\n", encoding="utf-8")
    partial.replace(path)
    return path


def card_notes(trainer) -> list[str]:
    """Sentences for the model card, from what has been logged so far."""
    rows = _describe(trainer.train_dataset).get("rows")
    notes = [f"Trained for {trainer.state.global_step} steps{'' if rows is None else f' on {rows} rows'}."]
    found = {}
    for logs in trainer.state.log_history:
        found |= {name: value for name, value in logs.items() if name in FIGURES and value is not None}
    notes += [f"At the end: {FIGURES[name]} {value:.3g}." for name, value in found.items()]
    return notes


def _describe(dataset) -> dict:
    if isinstance(dataset, dict):
        return {name: _describe(part) for name, part in dataset.items()}
    rows = len(dataset) if hasattr(dataset, "__len__") else None
    return {"rows": rows, "fingerprint": getattr(dataset, "_fingerprint", None)}


def _is_secret(name: str) -> bool:
    return any(name.endswith(f"_{word}") or name == word for word in SECRETS)


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
