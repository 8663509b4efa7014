"""What a run leaves beside its weights: settings, versions, the last figures on the card, completions with images."""

import json
from importlib.metadata import version

import pytest
from datasets import Dataset

from hf_metis_home.evaluation.generation import GeneratedAnswer
from hf_metis_home.evaluation.generation_callback import GenerationCallback

from .common import make_dataset, make_trainer
from .grpo_common import make_grpo


def test_settings_and_versions(tmp_path):
    trainer = make_trainer(tmp_path, router_loss_coef=0.7, hub_token="hf_secret", trainable="branches")
    trainer.args.model_init_kwargs = {"revision": "v1", "token": "hf_secret", "proxies": [{"API_KEY": "secret"}]}
    trainer.train()
    text = (tmp_path / "run.json").read_text(encoding="utf-8")
    record = json.loads(text)
    assert record["arguments"]["router_loss_coef"] == 0.7 and record["versions"]["trl"] == version("trl")
    assert record["datasets"]["train"]["rows"] == 8 and record["trainer"] == "MetisHomeSFTTrainer"
    assert record["parameters"]["shared"][0] == 0 < record["parameters"]["thinking"][0]
    assert record["arguments"]["model_init_kwargs"] == {"revision": "v1", "proxies": [{}]}
    assert "secret" not in text


def test_the_card_tells_the_last_figures(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=2)
    trainer.train()
    trainer.save_model()
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    last = [logs["router_accuracy"] for logs in trainer.state.log_history if "router_accuracy" in logs][-1]
    assert "Trained for 2 steps on 8 rows." in card
    assert f"router accuracy on the training rows {last:.3g}".replace("_", "\\_") in card


def test_completions_with_their_images(tmp_path):
    trainer = make_grpo(tmp_path, rollout_branch="both", log_completions=True, max_steps=2)
    trainer.train()
    files = sorted((tmp_path / "completions").glob("*"))
    assert [file.name for file in files] == ["completions_00001.parquet", "completions_00002.parquet"]
    table = Dataset.from_parquet(str(files[1]))
    assert len(table) == 8 and table["thinking"] == [True, False] * 4
    data = trainer.train_dataset
    questions = {}
    for row in data:
        questions.setdefault(row["prompt"][0]["content"], []).append(
            [image.getpixel((0, 0)) for image in row["images"]]
        )
    for row in table:
        text = "".join(part["text"] or "" for part in row["prompt"][0]["content"])
        assert [image.getpixel((0, 0)) for image in row["images"]] in questions[text]
    assert any(row["images"] for row in table)


def test_answers_during_training(tmp_path):
    data = make_dataset((True, False) * 3, images=(1,))
    trainer = make_trainer(tmp_path, eval_dataset=data, eval_strategy="steps", eval_steps=1, max_steps=2)
    trainer.add_callback(GenerationCallback(trainer, rows=4, max_new_tokens=4))
    trainer.train()
    found = [logs for logs in trainer.state.log_history if "eval_accuracy" in logs]
    assert [logs["step"] for logs in found] == [1, 2]
    assert all(0 <= logs["eval_thinking_ratio"] <= 1 and logs["eval_mean_tokens"] <= 4 for logs in found)
    assert {"eval_accuracy/test", "eval_thinking_ratio/test", "eval_malformed"} <= set(found[0])
    # Evaluating changes nothing: not the mode of the model, not what is trained.
    plain = make_trainer(tmp_path / "plain", eval_dataset=data, eval_strategy="steps", eval_steps=1, max_steps=2)
    plain.train()
    losses = [[logs["loss"] for logs in t.state.log_history if "loss" in logs] for t in (trainer, plain)]
    assert losses[0] == losses[1]


def test_answers_during_training_are_judged_as_everywhere(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "hf_metis_home.evaluation.outcomes.generate_answers",
        lambda model, processor, inputs, **options: [
            GeneratedAnswer("<think></think><answer>7.0</answer>", 4, True, 0.5) for _ in inputs["input_ids"]
        ],
    )
    data = make_dataset((True, False), images=(1,)).map(lambda row: {"solution": "7"})
    trainer = make_trainer(tmp_path, eval_dataset=data, eval_strategy="steps", eval_steps=1, max_steps=1)
    callback = GenerationCallback(trainer, rows=2)
    callback.on_evaluate(trainer.args, trainer.state, trainer.control)
    assert trainer.state.log_history[-1]["eval_accuracy"] == 1.0
    trainer.eval_dataset = data.map(lambda row, index: {"solution": "7" if index == 0 else "."}, with_indices=True)
    with pytest.raises(ValueError, match="Row 1 of the evaluation dataset: `solution` is '.', which holds no answer"):
        GenerationCallback(trainer, rows=2)


def test_answers_need_rows_to_answer(tmp_path):
    trainer = make_trainer(tmp_path)
    with pytest.raises(ValueError, match="no evaluation dataset"):
        GenerationCallback(trainer, rows=4)
