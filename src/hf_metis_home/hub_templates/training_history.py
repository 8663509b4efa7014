"""
How a model was made, read from the records that commands write next to it: `upcycle.json`, `run.json`,
`fit_router.json`, `branch_kind.json`, and those in the folders that these records name, if they still exist.
"""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from ..modeling.configuration_metis_home import BRANCHES
from .cards import hub_id


TRAINERS = {"MetisHomeSFTTrainer": "sft", "MetisHomeGRPOTrainer": "grpo"}
STAGES = {"upcycle": "upcycled", "sft": "sft", "grpo": "grpo"}
# File to kind of step; `run.json` names its trainer. A later command writes another file, into another folder.
RECORDS = {
    "run.json": None,
    "fit_router.json": "fit_router",
    "branch_kind.json": "branch_kind",
    "upcycle.json": "upcycle",
}
TITLES = {
    "upcycle": "Two branches from a dense model",
    "sft": "Stage-SFT: supervised training of both modes",
    "grpo": "Training on rewards (GRPO)",
    "fit_router": "Training the router only",
    "branch_kind": "Conversion to another kind of branch",
}
TRAINING = (
    "learning_rate", "branch_learning_rate", "router_learning_rate", "lr_scheduler_type", "warmup_steps",
    "weight_decay", "max_grad_norm", "per_device_train_batch_size", "gradient_accumulation_steps", "bf16", "seed",
    "processes",
)  # fmt: skip
SETTINGS = {
    "upcycle": ("branch_kind", "branch_rank", "branch_alpha", "router_layer", "router_pooling", "shared_from", "dtype"),
    "sft": ("trainable", "router_loss_coef", "curriculum", "replay_share", "num_train_epochs", *TRAINING),
    "grpo": (
        "rollout_branch", "advantage_group", "router_objective", "token_cost", "num_generations", "temperature",
        "max_completion_length", "loss_type", "beta", "epsilon", "epsilon_high", "reward_weights", "num_train_epochs",
        *TRAINING,
    ),
    "fit_router": ("learned_from", "token_cost", "steps", "learning_rate", "batch_size", "validation_fraction", "seed"),
    "branch_kind": ("branch_kind", "branch_rank"),
}  # fmt: skip
# Last logged values that go into the card, and their names there.
FIGURES = {
    "router_accuracy": "router accuracy on the training rows",
    "thinking_ratio": "thinking ratio on the training rows",
    "reward": "mean reward of the rollouts",
    "eval_loss": "evaluation loss",
    "eval_router_accuracy": "router accuracy on the evaluation rows",
    "eval_accuracy": "accuracy on the evaluation rows, answered as routed",
    "eval_thinking_ratio": "thinking ratio on the evaluation rows",
}


@dataclass(frozen=True)
class Step:
    """One command that the model went through: its kind (`"sft"`, ...), its record, and the folder with the record."""

    kind: str
    record: dict
    folder: Path | None = None

    @property
    def source(self) -> str | None:
        return self.record.get("model") or self.record.get("model_name_or_path")


@dataclass
class History:
    """
    Args:
        steps (`list[Step]`):
            From first to last, as far back as they are known.
        base_model, thinking_model, non_thinking_model (`str`, *optional*):
            Hub ids of the model's base, and of the source of each branch if different.
        stage (`str`, *optional*):
            As in [`~hub_templates.cards.ModelFacts`].
    """

    steps: list[Step] = field(default_factory=list)
    base_model: str | None = None
    thinking_model: str | None = None
    non_thinking_model: str | None = None
    stage: str | None = None

    def facts(self) -> dict:
        """Fields of [`~hub_templates.cards.ModelFacts`], without unknown ones."""
        if not self.steps:
            return {}
        made = next((step.record for step in reversed(self.steps) if step.kind == "upcycle"), {})
        datasets = [name for step in self.steps for name in _datasets(step)]
        facts = {
            "base_model": self.base_model,
            "thinking_model": self.thinking_model,
            "non_thinking_model": self.non_thinking_model,
            "own_sources": any(made.get(f"{branch}_{kind}") for branch in BRANCHES for kind in ("model", "adapter")),
            "router_examples": made.get("router_examples"),
            "datasets": list(dict.fromkeys(datasets)),
            "versions": self.steps[-1].record.get("versions"),
        }
        steps = {"stage": self.stage, "steps": [describe(step) for step in self.steps]}
        return {name: value for name, value in facts.items() if value} | steps


def history_of(folder: str | Path) -> History:
    """
    The history of the model in a folder; empty if there are no records.

    Example:

    ```python
    >>> from hf_metis_home.hub_templates.training_history import history_of

    >>> [step.kind for step in history_of("runs/sft").steps]
    ['upcycle', 'sft']
    ```
    """
    step = _read_step(Path(folder))
    return history_after(step) if step else History()


def history_after(step: Step, seen: set[Path] | None = None) -> History:
    """The history that ends with a step. `seen` are the folders visited so far, so that loops end."""
    if seen is None:
        seen = {step.folder.resolve()} if step.folder else set()
    history = _source(step, step.source, seen)
    if step.kind == "upcycle":
        for branch in BRANCHES:
            source = step.record.get(f"{branch}_model") or step.record.get(f"{branch}_adapter")
            if source is not None:
                made = _source(step, source, seen)
                history.steps += made.steps
                if made.base_model != history.base_model:
                    setattr(history, f"{branch}_model", made.base_model)
    history.steps.append(step)
    if step.kind in STAGES:
        history.stage = STAGES[step.kind]
    elif history.stage == "upcycled":  # changed since, but not trained
        history.stage = None
    return history


def _source(step: Step, source: str | None, seen: set[Path]) -> History:
    """The history of a step's source; a Hub id starts one."""
    folder = _find(step, source)
    if folder is None:
        known = source is not None and source not in (step.record.get("local_sources") or ())
        return History(base_model=hub_id(source) if known else None)
    if folder.resolve() in seen:
        return History()
    seen.add(folder.resolve())
    earlier = _read_step(folder)
    return history_after(earlier, seen) if earlier else History()


def _find(step: Step, source: str | None) -> Path | None:
    """The folder that a record names, relative to here or to any folder above the record's own."""
    if not source:
        return None
    above = step.folder.resolve().parents if step.folder else ()
    places = [Path(source), *(parent / source for parent in above)]
    return next((place for place in places if place.is_dir()), None)


def _read_step(folder: Path) -> Step | None:
    places = [folder, folder.parent] if re.fullmatch(r"checkpoint-\d+", folder.name) else [folder]
    for place in places:
        for name, kind in RECORDS.items():
            try:
                record = json.loads((place / name).read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            if isinstance(record, dict) and (kind := kind or TRAINERS.get(record.get("trainer"))):
                return Step(kind, record, place)
    return None


def describe(step: Step) -> dict:
    """A step as the card shows it: `title`, `sentences` and `settings` (name to value)."""
    values = {**step.record, **(step.record.get("arguments") or {})}
    # Without effect: epochs with a number of steps, a coefficient of 0, and a single process.
    idle = {
        "num_train_epochs": (values.get("max_steps") or 0) > 0,
        "router_loss_coef": not values.get("router_loss_coef"),
    }
    idle["processes"] = (values.get("processes") or 1) == 1
    settings = {name: values.get(name) for name in SETTINGS[step.kind] if not idle.get(name)}
    settings = {name: value for name, value in settings.items() if value not in (None, "", []) and value is not False}
    sentences = {"sft": _trained, "grpo": _trained, "fit_router": _fitted}.get(step.kind, lambda step: [])
    return {"title": TITLES[step.kind], "sentences": sentences(step), "settings": settings}


def _trained(step: Step) -> list[str]:
    record, sentences = step.record, []
    parameters = record.get("parameters") or {}
    trained = [group for group, (count, _) in parameters.items() if count]
    if trained and step.kind == "grpo":
        dense = not any(total for group, (_, total) in parameters.items() if group != "shared")
        text = f"Trained on rewards: {'the dense model' if dense else ', '.join(trained)}."
        if any(total > count for count, total in parameters.values()):
            text += " Everything else was frozen."
        sentences.append(text + (f" Rewards: {', '.join(record['rewards'])}." if record.get("rewards") else ""))
    elif trained:
        sentences.append(f"Trained parts: {', '.join(trained)}.")
    rows = ((record.get("datasets") or {}).get("train") or {}).get("rows")
    if record.get("steps"):
        source = f" from {', '.join(names)}" if (names := _datasets(step)) else ""
        sentences.append(
            f"Trained for {record['steps']} steps" + ("." if rows is None else f" on {rows} rows{source}.")
        )
    figures = {name: value for name, value in (record.get("figures") or {}).items() if name in FIGURES}
    return sentences + [f"At the end: {FIGURES[name]} {value:.3g}." for name, value in figures.items()]


def _fitted(step: Step) -> list[str]:
    record, score = step.record, step.record.get("calibrated")
    if not score:
        return []
    source, result = "labels", f"it agreed with {score['accuracy']:.1%} of the labels"
    if record.get("learned_from") == "outcomes":
        source = "outcomes of both branches"
        result = f"{score['accuracy']:.1%} of its choices were right, weighted by how much each one matters"
    return [
        f"Only the router was trained, on {source} of {record['fitted_rows']} rows. On {record['held_out_rows']} "
        f"held-out rows {result}, with a thinking ratio of {score['thinking_ratio']:.1%}."
    ]


def _datasets(step: Step) -> list[str]:
    """Hub ids of the rows that a step trained on."""
    local = step.record.get("local_sources") or ()
    return [name for name in step.record.get("dataset_names") or [] if name not in local and hub_id(name)]
