"""`metis-home calibrate` writes two fields of a configuration, or nothing."""

import json

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from hf_metis_home.cli import main
from hf_metis_home.cli._models import load_model
from hf_metis_home.conversion import upcycle_checkpoint
from hf_metis_home.evaluation.outcomes import write_outcomes

from ..conversion.common import save_dense
from ..evaluation.test_calibration import smooth, table


@pytest.fixture
def folder(tmp_path):
    write_outcomes(table(*smooth(np.random.default_rng(0), 400)), tmp_path / "outcomes" / "outcomes.parquet")
    return upcycle_checkpoint(save_dense(tmp_path / "dense"), tmp_path / "hybrid")


def calibrate(folder, *words, outcomes="outcomes") -> int:
    return main(["calibrate", "--model_name_or_path", str(folder), "--outcomes", str(folder.parent / outcomes), *words])


def test_writes_two_fields_and_no_weights(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert calibrate(folder, "--thinking_ratio", "0.4") == 0
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {name for name in after if after[name] != before.get(name)} == {"config.json", "README.md"}
    old, new = json.loads(before["config.json"]), json.loads(after["config.json"])
    calibration = new.pop("calibration")
    assert new | {"thinking_threshold": 0} == {k: v for k, v in old.items() if k != "calibration"} | {
        "thinking_threshold": 0
    }
    assert new["thinking_threshold"] == calibration["threshold"] != 0.5
    assert calibrate(folder, "--thinking_ratio", "0.4", outcomes="outcomes/outcomes.parquet") == 0
    again = json.loads((folder / "config.json").read_text())["calibration"]
    assert again | {"date": 0} == calibration | {"date": 0}


def test_a_stale_calibration_is_said(folder, capsys):
    assert calibrate(folder, "--thinking_ratio", "0.4") == 0
    load_model(str(folder))
    assert "warning" not in capsys.readouterr().err
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["model.language_model.router.score.bias"] += 1e-3
    save_file(tensors, path, {"format": "pt"})
    load_model(str(folder))
    assert "warning: The calibration is stale: the weights have changed" in capsys.readouterr().err
    assert calibrate(folder, "--thinking_ratio", "0.4") == 0
    assert "It is replaced now" in capsys.readouterr().err
    load_model(str(folder))
    assert "warning" not in capsys.readouterr().err


def test_a_promise_that_cannot_be_made(folder, capsys):
    assert calibrate(folder, "--max_accuracy_drop", "0.001") == 0
    assert "no threshold above 0 can be guaranteed" in capsys.readouterr().out
    assert json.loads((folder / "config.json").read_text())["thinking_threshold"] == 0.0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Exactly one of"),
        (["--max_accuracy_drop", "2"], "`max_accuracy_drop` is 2.0"),
        (["--thinking_ratio", "0.4", "--model_name_or_path", "owner/name"], "hf download OWNER/NAME"),
        (["--thinking_ratio", "0.4", "--outcomes", "nowhere"], "`outcomes` is 'nowhere', which is not a file"),
        (["--token_budget", "5"], "`token_budget` is 5, but on the "),
    ],
)
def test_refuses(words, message, folder, capsys):
    before = (folder / "config.json").read_bytes()
    assert calibrate(folder, *words) == 2
    assert message in capsys.readouterr().err and (folder / "config.json").read_bytes() == before


def test_refuses_a_dense_model_and_outcomes_of_other_weights(folder, capsys):
    assert calibrate(folder.parent / "dense", "--thinking_ratio", "0.4") == 2
    assert "not a two-branch model" in capsys.readouterr().err
    run = {"model": {"name": "other", "weights": "0" * 64}}
    (folder.parent / "outcomes" / "run.json").write_text(json.dumps(run))
    assert calibrate(folder, "--thinking_ratio", "0.4") == 2
    assert "from a model with other weights ('other', see run.json)" in capsys.readouterr().err
