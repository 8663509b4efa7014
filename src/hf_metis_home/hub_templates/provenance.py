"""
How a model came to be, read from what commands leave beside it: `upcycle.json`, `run.json`, `fit_router.json`,
`branch_kind.json`, and the same in the folders that those name, as long as they are there.
"""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from ..modeling.configuration_metis_home import BRANCHES
from .cards import hub_id


TRAINERS = {"MetisHomeSFTTrainer": "sft", "MetisHomeGRPOTrainer": "grpo"}
STAGES = {"upcycle": "upcycled", "sft": "sft", "grpo": "grpo"}
# File to the kind of step; `run.json` names a trainer. A later command writes another file, into another folder.
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
    "fit_router": "The router alone",
    "branch_kind": "Branches of another kind",
}
BATCH = ("per_device_train_batch_size", "gradient_accumulation_steps")
TRAINING = (
    "learning_rate", "branch_learning_rate", "router_learning_rate", "lr_scheduler_type", "warmup_steps",
    "weight_decay", "max_grad_norm", *BATCH, "bf16", "seed",
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


@dataclass(frozen=True)
class Step:
    """One command in the making of a model: what it was (`"sft"`, ...), its record, and the folder that holds it."""

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
            From the first to the last, as far back as they are known.
        base_model, thinking_model, non_thinking_model (`str`, *optional*):
            Hub ids of what the model was made from, and of what gave one branch's weights if that was another.
        stage (`str`, *optional*):
            As [`~hub_templates.render_model_card`] takes it.
    """

    steps: list[Step] = field(default_factory=list)
    base_model: str | None = None
    thinking_model: str | None = None
    non_thinking_model: str | None = None
    stage: str | None = None

    def facts(self) -> dict:
        """What [`~hub_templates.render_model_card`] takes, without what is not known."""
        if not self.steps:
            return {}
        made = next((step.record for step in reversed(self.steps) if step.kind == "upcycle"), {})
        datasets = [name for step in self.steps for name in map(hub_id, _dataset_names(step)) if name]
        facts = {
            "base_model": self.base_model,
            "thinking_model": self.thinking_model,
            "non_thinking_model": self.non_thinking_model,
            "own_sources": any(made.get(f"{branch}_{kind}") for branch in BRANCHES for kind in ("model", "adapter")),
            "router_examples": made.get("router_examples"),
            "datasets": list(dict.fromkeys(datasets)),
            "versions": self.steps[-1].record.get("versions"),
        }
        return {name: value for name, value in facts.items() if value} | {
            "stage": self.stage,
            "steps": [describe(step) for step in self.steps],
        }


def history_of(folder: str | Path) -> History:
    """
    The history of a model's folder; empty where nothing tells it.

    Example:

    ```python
    >>> from hf_metis_home.hub_templates.provenance import history_of

    >>> [step.kind for step in history_of("runs/sft").steps]
    ['upcycle', 'sft']
    ```
    """
    step = _read_step(Path(folder))
    return history_after(step) if step else History()


def history_after(step: Step) -> History:
    """The history that ends with a step."""
    return _follow(step, {step.folder.resolve()} if step.folder else set())


def _follow(step: Step, seen: set[Path]) -> History:
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
    elif history.stage == "upcycled":  # no longer as upcycling left it, and not trained either
        history.stage = None
    return history


def _source(step: Step, source: str | None, seen: set[Path]) -> History:
    """The history of what a step started from; a Hub id begins one."""
    folder = _find(step, source)
    if folder is None:
        known = source is not None and source not in (step.record.get("local_sources") or ())
        return History(base_model=hub_id(source) if known else None)
    if folder.resolve() in seen:
        return History()
    seen.add(folder.resolve())
    earlier = _read_step(folder)
    return _follow(earlier, seen) if earlier else History()


def _find(step: Step, source: str | None) -> Path | None:
    """The folder that a record names, from here or from any folder above the record's own."""
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
    """A step as the card tells it: `title`, `sentences`, `settings` (name to value)."""
    record = step.record
    values = {**record, **(record.get("arguments") or {})}
    settings = {name: values.get(name) for name in SETTINGS[step.kind]}
    settings = {name: value for name, value in settings.items() if value not in (None, "", []) and value is not False}
    if step.kind in TRAINERS.values():
        if (record.get("processes") or 1) > 1:
            settings["processes"] = record["processes"]
        if (values.get("max_steps") or 0) > 0:
            settings.pop("num_train_epochs", None)
        if not values.get("router_loss_coef"):
            settings.pop("router_loss_coef", None)
    return {"title": TITLES[step.kind], "sentences": _sentences(step), "settings": settings}


def _sentences(step: Step) -> list[str]:
    record = step.record
    if step.kind == "fit_router":
        return _fitted(record)
    if step.kind not in TRAINERS.values():
        return []
    sentences = []
    parameters = record.get("parameters") or {}
    trained = [group for group, (count, _) in parameters.items() if count]
    if trained and step.kind == "grpo":
        rest = " The other parts were not." if any(total > count for count, total in parameters.values()) else ""
        rewards = f" The rewards: {', '.join(record['rewards'])}." if record.get("rewards") else ""
        dense = not any(total for group, (_, total) in parameters.items() if group != "shared")
        parts = "the dense model" if dense else ", ".join(trained)
        sentences.append(f"Trained on rewards: {parts}.{rest}{rewards}")
    elif trained:
        sentences.append(f"Trained parts: {', '.join(trained)}.")
    rows = ((record.get("datasets") or {}).get("train") or {}).get("rows")
    names = [name for name in map(hub_id, _dataset_names(step)) if name]
    where = f" of {', '.join(names)}" if names else ""
    if record.get("steps"):
        over = "" if rows is None else f" on {rows} rows{where}"
        sentences.append(f"Trained for {record['steps']} steps{over}.")
    figures = {name: value for name, value in (record.get("figures") or {}).items() if name in FIGURES}
    sentences += [f"At the end: {FIGURES[name]} {value:.3g}." for name, value in figures.items()]
    return sentences


def _fitted(record: dict) -> list[str]:
    by_outcomes = record.get("learned_from") == "outcomes"
    source = "outcomes of both branches" if by_outcomes else "labels"
    what = "of what the choice of branch was worth was chosen rightly" if by_outcomes else "agreed with the label"
    score = record.get("calibrated")
    if not score:
        return []
    return [
        f"The router was fitted alone to {source}, on {record['fitted_rows']} rows. On {record['held_out_rows']} rows "
        f"held out {score['accuracy']:.1%} {what}, with a thinking ratio of {score['thinking_ratio']:.1%}."
    ]


def _dataset_names(step: Step) -> list[str]:
    local = step.record.get("local_sources") or ()
    return [name for name in step.record.get("dataset_names") or [] if name not in local]
