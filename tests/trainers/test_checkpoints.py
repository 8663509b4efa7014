"""Every folder that training leaves is a complete Hub repository, and what is sent to the Hub is the same."""

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig

from tests.modeling.test_remote_code import AUTO_MAP, CODE_FILES, run_isolated
from tests.publishing.hub_server import hub  # noqa: F401  a fixture

from .common import make_rows, make_trainer
from .grpo_common import make_grpo


COMPLETE = CODE_FILES | {
    "README.md", "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors",
    "processor_config.json", "tokenizer.json", "tokenizer_config.json",
}  # fmt: skip


def check_complete(folder: Path, model) -> None:
    assert COMPLETE <= {path.name for path in folder.iterdir()}
    config = json.loads((folder / "config.json").read_text())
    assert config["auto_map"] == AUTO_MAP and config["architectures"] == ["MetisHomeForConditionalGeneration"]
    card = ModelCard.load(folder / "README.md")
    assert card.data.pipeline_tag == "image-text-to-text" and card.data.library_name == "transformers"
    assert "metis-home" in card.data.tags and "trained" in card.text
    loaded = AutoModelForImageTextToText.from_pretrained(folder)
    expected = model.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    assert "enable_thinking" in processor.chat_template
    assert GenerationConfig.from_pretrained(folder).eos_token_id == processor.tokenizer.eos_token_id


def test_checkpoints_and_the_final_model_are_complete(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=2, save_strategy="steps", save_steps=2)
    trainer.train()
    trainer.save_model()
    check_complete(tmp_path / "checkpoint-2", trainer.model)
    check_complete(tmp_path, trainer.model)


@pytest.mark.slow  # `test_remote_code.py` loads an untrained model in this way
def test_a_checkpoint_loads_where_the_package_is_not(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=2, save_strategy="steps", save_steps=2)
    trainer.train()
    batch = trainer.data_collator(make_rows((True, False), images=(1, 2)))
    inputs = {name: batch[name] for name in batch if name not in ("labels", "task", "thinking", "prompt_mask")}
    _, found = run_isolated(tmp_path / "checkpoint-2", tmp_path / "again", inputs, tmp_path)
    with torch.no_grad():
        assert torch.equal(found["logits"], trainer.model.eval().forward(**inputs).logits)


def check_sent(hub, model, folder: Path) -> ModelCard:  # noqa: F811
    """What stands in the repository is complete, and its card loads it from there."""
    sent = hub.repositories["me/hybrid"].files()
    assert not [name for name in sent if name.endswith((".bin", ".pt", ".pth", ".pkl"))]  # pickles can run code
    folder.mkdir()
    for name in COMPLETE:
        (folder / name).write_bytes(sent[name])
    check_complete(folder, model)
    card = ModelCard.load(folder / "README.md")
    assert 'repo = "me/hybrid"' in card.text
    return card


def test_push_to_hub_of_the_trainer(tmp_path, hub):  # noqa: F811
    trainer = make_trainer(tmp_path / "run", hub_model_id="me/hybrid", hub_private_repo=True)
    trainer.train()
    done = trainer.push_to_hub()
    card = check_sent(hub, trainer.model, tmp_path / "sent")
    assert hub.repositories["me/hybrid"].private and done.oid == hub.repositories["me/hybrid"].refs["main"]
    assert {"trl", "sft", "custom_code"} <= set(card.data.tags) and "# hybrid\n" in card.text
    assert "Trained for 1 steps on 8 rows." in card.text and "| `learning_rate` | 0.01 |" in card.text


def test_push_to_hub_after_rewards(tmp_path, hub):  # noqa: F811
    trainer = make_grpo(tmp_path / "run", rollout_branch="thinking", hub_model_id="me/hybrid")
    trainer.train()
    trainer.push_to_hub()
    card = check_sent(hub, trainer.model, tmp_path / "sent")
    assert "Trained on rewards: thinking." in card.text and "| `rollout_branch` | thinking |" in card.text


def test_a_card_that_somebody_wrote_in_survives_training(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n\nMy words.\n")
    trainer = make_trainer(tmp_path, max_steps=1)
    trainer.train()
    trainer.save_model()
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.license == "mit" and "# Mine\n\nMy words.\n" in card.text
    assert "Trained for 1 steps" in card.text and "No license was stated" not in card.text
    trainer.save_model()
    assert ModelCard.load(tmp_path / "README.md").text == card.text


def test_what_is_pushed_while_training_is_complete(tmp_path, hub):  # noqa: F811
    trainer = make_trainer(
        tmp_path, max_steps=2, save_strategy="steps", save_steps=1, push_to_hub=True, hub_model_id="me/hybrid",
        hub_strategy="every_save", hub_always_push=True,
    )  # fmt: skip
    trainer.train()
    trainer.push_in_progress.wait_until_done()
    check_sent(hub, trainer.model, tmp_path / "sent")


def test_push_to_hub_of_the_model(tmp_path, hub):  # noqa: F811
    trainer = make_trainer(tmp_path)
    trainer.train()
    trainer.model.push_to_hub("me/hybrid")
    sent = hub.repositories["me/hybrid"].files()
    assert CODE_FILES | {"config.json", "generation_config.json", "model.safetensors"} <= sent.keys()
    assert json.loads(sent["config.json"])["auto_map"] == AUTO_MAP
