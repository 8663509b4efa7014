"""Every folder that training leaves is a complete Hub repository, and what is sent to the Hub is the same."""

import json
from concurrent.futures import Future
from pathlib import Path

import pytest
import torch
from huggingface_hub import CommitInfo, HfApi, ModelCard, RepoUrl
from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig

from tests.modeling.test_remote_code import AUTO_MAP, CODE_FILES, run_isolated

from .common import make_rows, make_trainer


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


@pytest.fixture
def hub(monkeypatch):
    """The Hub's network, replaced where huggingface_hub calls it: what would be uploaded, by path."""
    uploads: dict[str, dict[str, bytes]] = {}

    def commit(repo_id):
        url = f"https://huggingface.co/{repo_id}/commit/0"
        return CommitInfo(commit_url=url, commit_message="", commit_description="", oid="0" * 40)

    def create_repo(self, repo_id, **kwargs):
        return RepoUrl(f"https://huggingface.co/{repo_id}")

    def upload_folder(self, *, repo_id, folder_path, ignore_patterns=None, run_as_future=False, **kwargs):
        skipped = {path for pattern in ignore_patterns or () for path in Path(folder_path).glob(pattern)}
        files = {path.name: path.read_bytes() for path in Path(folder_path).iterdir() if path.is_file()}
        uploads.setdefault(repo_id, {}).update(
            {name: content for name, content in files.items() if Path(folder_path) / name not in skipped}
        )
        done = Future()
        done.set_result(commit(repo_id))
        return done if run_as_future else done.result()

    def create_commit(self, repo_id, operations, **kwargs):
        files = {operation.path_in_repo: operation.path_or_fileobj for operation in operations}
        uploads.setdefault(repo_id, {}).update(
            {name: Path(source).read_bytes() if isinstance(source, str) else source for name, source in files.items()}
        )
        return commit(repo_id)

    for method in (create_repo, upload_folder, create_commit):
        monkeypatch.setattr(HfApi, method.__name__, method)
    return uploads


def test_push_to_hub_of_the_trainer(tmp_path, hub):
    trainer = make_trainer(tmp_path / "run", hub_model_id="me/hybrid", hub_token="none")
    trainer.train()
    trainer.push_to_hub()
    assert COMPLETE <= hub["me/hybrid"].keys()
    for name, content in hub["me/hybrid"].items():
        (tmp_path / "sent").mkdir(exist_ok=True)
        (tmp_path / "sent" / name).write_bytes(content)
    check_complete(tmp_path / "sent", trainer.model)


def test_what_is_pushed_while_training_is_complete(tmp_path, hub):
    trainer = make_trainer(
        tmp_path, max_steps=2, save_strategy="steps", save_steps=1, push_to_hub=True, hub_model_id="me/hybrid",
        hub_strategy="every_save", hub_token="none", hub_always_push=True,
    )  # fmt: skip
    trainer.train()
    trainer.push_in_progress.wait_until_done()
    assert COMPLETE <= hub["me/hybrid"].keys()


def test_push_to_hub_of_the_model(tmp_path, hub):
    trainer = make_trainer(tmp_path)
    trainer.train()
    trainer.model.push_to_hub("me/hybrid")
    assert CODE_FILES | {"config.json", "generation_config.json", "model.safetensors"} <= hub["me/hybrid"].keys()
    assert json.loads(hub["me/hybrid"]["config.json"])["auto_map"] == AUTO_MAP
