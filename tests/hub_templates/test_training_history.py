"""A model's history is followed from record to record, as far as they are there, and never taken for a Hub id."""

import json
from pathlib import Path

import pytest

from hf_metis_home.hub_templates import render_model_card
from hf_metis_home.hub_templates.training_history import history_of


BASE = "Qwen/Qwen2.5-VL-3B-Instruct"


def record(folder: Path, name: str, **values) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(values))
    return folder


def run(folder: Path, trainer: str, model, **values) -> Path:
    parameters = {"shared": [0, 10], "thinking": [5, 5], "router": [1, 1]}
    return record(folder, "run.json", trainer=trainer, model=str(model), parameters=parameters, **values)


@pytest.fixture
def chain(tmp_path):
    """Stage-RL on a model of the Hub, two branches from it, Stage-SFT, and the router once more."""
    rl = run(
        tmp_path / "rl", "MetisHomeGRPOTrainer", BASE, steps=7, rewards=["accuracy_reward"],
        dataset_names=["me/prompts"], arguments={"loss_type": "grpo", "beta": 0.0, "num_generations": 8},
    )  # fmt: skip
    hybrid = record(
        tmp_path / "hybrid", "upcycle.json", model_name_or_path=str(rl), thinking_model="other/reasoner",
        router_layer=4, local_sources=[str(rl)],
    )  # fmt: skip
    sft = run(
        tmp_path / "sft", "MetisHomeSFTTrainer", hybrid, steps=100, dataset_names=["me/rows", "runs/local"],
        local_sources=["runs/local"], datasets={"train": {"rows": 16000}}, figures={"router_accuracy": 0.987, "x": 1},
        arguments={"learning_rate": 1e-5, "max_steps": -1, "num_train_epochs": 2, "seed": 0},
    )  # fmt: skip
    score = {"accuracy": 0.9, "thinking_ratio": 0.4}
    return record(
        tmp_path / "fitted", "fit_router.json", model_name_or_path=str(sft), learned_from="outcomes", fitted_rows=80,
        held_out_rows=20, calibrated=score, versions={"torch": "2.13"},
    )  # fmt: skip


def test_the_whole_way(chain):
    history = history_of(chain)
    assert [step.kind for step in history.steps] == ["grpo", "upcycle", "sft", "fit_router"]
    assert (history.base_model, history.thinking_model, history.non_thinking_model) == (BASE, "other/reasoner", None)
    assert history.stage == "sft"
    card = render_model_card(**history.facts(), license="mit")
    assert f"base_model:\n- {BASE}\n- other/reasoner\n" in card and "datasets:\n- me/prompts\n- me/rows\n" in card
    for text in (
        "### 1. Training on rewards (GRPO)", "| `loss_type` | grpo |", "| `beta` | 0.0 |",
        "Rewards: accuracy\\_reward.",
        "### 2. Two branches", "| `router_layer` | 4 |", "The thinking branch comes from [other/reasoner]",
        "### 3. Stage-SFT", "Trained for 100 steps on 16000 rows from me/rows.", "Trained parts: thinking, router.",
        "At the end: router accuracy on the training rows 0.987.", "| `learning_rate` | 1e-05 |",
        "### 4. Training the router only", "was trained, on outcomes of both branches of 80 rows", "- torch 2.13",
    ):  # fmt: skip
        assert text in card, text
    assert "runs/local" not in card and str(chain.parent) not in card and "None" not in card.replace("`None` in it", "")


def test_a_folder_that_is_gone_is_no_hub_id(chain, tmp_path, monkeypatch):
    hybrid = record(
        tmp_path / "a" / "hybrid", "upcycle.json", model_name_or_path="runs/base", local_sources=["runs/base"]
    )
    assert history_of(hybrid).base_model is None
    record(tmp_path / "a" / "runs" / "base", "run.json", trainer="MetisHomeGRPOTrainer", model=BASE)
    assert history_of(hybrid).base_model == BASE  # found from above the record's own folder
    monkeypatch.chdir(tmp_path / "a" / "hybrid")
    assert history_of(".").base_model == BASE


@pytest.mark.parametrize(
    ("then", "stage"),
    [("fit_router.json", None), ("branch_kind.json", None), (None, "upcycled")],
)
def test_what_is_no_longer_freshly_upcycled(tmp_path, then, stage):
    folder = record(tmp_path / "hybrid", "upcycle.json", model_name_or_path=BASE)
    if then:
        folder = record(tmp_path / "next", then, model_name_or_path=str(folder))
    assert history_of(folder).stage == stage and history_of(folder).base_model == BASE


def test_checkpoints_loops_and_other_files(tmp_path):
    sft = run(tmp_path / "sft", "MetisHomeSFTTrainer", tmp_path / "sft")  # trained where it lies
    assert [step.kind for step in history_of(sft / "checkpoint-3").steps] == ["sft"]
    assert [step.kind for step in history_of(sft).steps] == ["sft"]
    assert history_of(record(tmp_path / "outcomes", "run.json", arguments={"model_name_or_path": BASE})).steps == []
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "upcycle.json").write_text("{")
    assert history_of(tmp_path / "broken").facts() == {} and history_of(tmp_path / "absent").steps == []
