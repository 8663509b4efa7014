"""The record of a training run: settings, versions and metrics, for `run.json` and the model card."""

import json
from pathlib import Path

from .._folders import write_whole
from .._versions import versions
from ..conversion.hub_folder import local_sources
from ..hub_templates.training_history import FIGURES
from .parameter_groups import count_trainable


SECRETS = ("token", "key", "password")


def run_of(trainer) -> dict:
    """
    The record of a run so far.

    It contains `arguments` (the configuration without secrets), `versions`, `parameters` (by group: trainable and all),
    `datasets` (rows and fingerprint), `dataset_names` if known, `model`, `rewards` (GRPO), `steps` and `figures`, the
    values logged last.
    """
    arguments = _without_secrets(trainer.args.to_dict())
    datasets = {"train": trainer.train_dataset, "eval": trainer.eval_dataset}
    model, names = str(trainer.model.config._name_or_path), list(trainer.dataset_names)
    figures = {}
    for logs in trainer.state.log_history:
        figures |= {name: value for name, value in logs.items() if name in FIGURES and value is not None}
    record = {
        "trainer": type(trainer).__name__,
        "model": model,
        "dataset_names": names,
        "local_sources": local_sources(model, *names),
        "processes": trainer.accelerator.num_processes,
        "datasets": {name: _describe(dataset) for name, dataset in datasets.items() if dataset is not None},
        "parameters": trainer._parameters or count_trainable(trainer.plain_model),
        "versions": versions(),
        "arguments": arguments,
        "steps": trainer.state.global_step,
        "figures": figures,
    }
    rewards = getattr(trainer, "reward_func_names", None)  # of GRPO
    return record | ({"rewards": list(rewards)} if rewards else {})


def write_run(trainer) -> Path:
    """Write [`run_of`] a trainer as `run.json` into its output folder and return the path."""
    path = Path(trainer.args.output_dir) / "run.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(run_of(trainer), indent=2, default=str) + "\n")
    return path


def _describe(dataset) -> dict:
    if isinstance(dataset, dict):
        return {name: _describe(part) for name, part in dataset.items()}
    rows = len(dataset) if hasattr(dataset, "__len__") else None
    return {"rows": rows, "fingerprint": getattr(dataset, "_fingerprint", None)}


def _without_secrets(value):
    """A copy without dictionary entries that are secret by their names, at any depth."""

    def is_secret(name: str) -> bool:
        return any(name == word or name.endswith(f"_{word}") for word in SECRETS)

    if isinstance(value, dict):
        return {name: _without_secrets(inner) for name, inner in value.items() if not is_secret(str(name).lower())}
    if isinstance(value, (list, tuple)):
        return [_without_secrets(inner) for inner in value]
    return value
