"""A model by its name, whose code runs only where the user says so."""

import os
from dataclasses import asdict

import pytest
import torch
from datasets import Dataset
from huggingface_hub import constants

from hf_metis_home.cli import main
from hf_metis_home.cli._models import load_model
from hf_metis_home.cli.eval import EvalArguments
from hf_metis_home.conversion import save_hub_folder
from hf_metis_home.conversion.fingerprint import weights_fingerprint
from hf_metis_home.evaluation.run_record import run_settings
from tests.publishing.hub_server import Repository, hub  # noqa: F401  a fixture
from tests.trainers.common import make_hybrid


def test_a_hybrid_loads_without_its_own_code(tmp_path):
    model, processor = make_hybrid()
    save_hub_folder(model, processor, tmp_path / "hybrid")
    (tmp_path / "hybrid/modeling_metis_home.py").write_text("raise RuntimeError('this code must not run')\n")
    loaded, found = load_model(str(tmp_path / "hybrid"))
    assert loaded.lm_head.weight.cpu().equal(model.lm_head.weight) and not loaded.training
    assert type(found) is type(processor)


def test_what_cannot_be_loaded(tmp_path):
    message = "`--model_name_or_path` is .*is not a local folder and cannot be loaded: (.|\n)*Give a model folder"
    with pytest.raises(ValueError, match=message):
        load_model(str(tmp_path / "missing"))


def test_an_unknown_dtype(tmp_path, capsys):
    assert main(["chat", "--model_name_or_path", str(tmp_path), "--dtype", "7"]) == 2
    assert "`--dtype` is '7', but must be 'auto', 'bfloat16', 'float16' or 'float32'." in capsys.readouterr().err


def test_a_revision_of_a_hub_repository(tmp_path, hub, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    model, processor = make_hybrid()
    save_hub_folder(model, processor, tmp_path / "hybrid")
    files = {path.name: path.read_bytes() for path in (tmp_path / "hybrid").iterdir()}
    repository = hub.repositories["me/hybrid"] = Repository(private=False)
    old = repository.commit("main", files)
    first = model.lm_head.weight.clone()
    with torch.no_grad():
        model.lm_head.weight += 1
    save_hub_folder(model, processor, tmp_path / "newer")
    repository.commit("main", files | {"model.safetensors": (tmp_path / "newer/model.safetensors").read_bytes()})
    assert load_model("me/hybrid")[0].lm_head.weight.cpu().equal(model.lm_head.weight)
    loaded = load_model("me/hybrid", revision=old)[0]
    assert loaded.lm_head.weight.cpu().equal(first)
    asked = asdict(EvalArguments(model_name_or_path="me/hybrid", output_dir="out", model_revision=old))
    settings = run_settings(asked, loaded, Dataset.from_list([{"a": 1}]))
    assert settings["commit"] == old and settings["weights"] == weights_fingerprint(tmp_path / "hybrid")
    newest = run_settings({**asked, "model_revision": None}, loaded, Dataset.from_list([{"a": 1}]))
    assert newest["weights"] == weights_fingerprint(tmp_path / "newer")
    refused = ["eval", "--model_name_or_path", "me/hybrid", "--model_revision", "absent", "--limit", "1"]
    assert main([*refused, "--tasks", "digits", "--output_dir", str(tmp_path / "outcomes")]) == 2
    assert "cannot be loaded at `--model_revision absent`: " in capsys.readouterr().err

    monkeypatch.setattr("sys.stdin", open(os.devnull))  # noqa: SIM115
    assert main(["chat", "--model_name_or_path", "me/hybrid", "--model_revision", "absent"]) == 2
    assert (
        "'me/hybrid', which is not a local folder and cannot be loaded at `--model_revision absent`: "
        in capsys.readouterr().err
    )
    assert main(["chat", "--model_name_or_path", "me/hybrid", "--model_revision", old]) == 0
    assert main(["chat", "--model_name_or_path", str(tmp_path / "newer"), "--model_revision", old]) == 2
    assert "a folder, which has no revisions" in capsys.readouterr().err
