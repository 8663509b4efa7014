"""`metis-home validate` prints one line per check and says in its exit code whether all passed."""

import json

import pytest

from hf_metis_home.cli import main
from hf_metis_home.conversion import upcycle_checkpoint

from ..fixtures_text import tiny_word_level


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dense")
    model, processor = tiny_word_level()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(dense, tmp_path):
    return upcycle_checkpoint(dense, tmp_path / "hybrid")


def test_whole_folder(folder, dense, capsys):
    assert main(["validate", "--model_name_or_path", str(folder), "--dense_model", str(dense)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12 and all(line.startswith("✓ ") for line in lines)
    assert lines[0] == "✓ configuration: ffn branches in layers 1 to 1"
    assert lines[-1].startswith("✓ dense parity: shared: 0 of ")


def test_damaged_folder(folder, capsys):
    (folder / "model.safetensors").unlink()
    assert main(["validate", "--model_name_or_path", str(folder)]) == 1
    captured = capsys.readouterr()
    lines = {line.split(":")[0]: line for line in captured.out.splitlines()}
    assert len(lines) == 11 and "has neither model.safetensors" in lines["✗ files"]
    assert lines["– tensors"] == "– tensors: not run, needs files"
    assert "\x1b" not in captured.out and captured.err == ""


def test_json(folder, capsys):
    (folder / "README.md").unlink()
    assert main(["validate", "--model_name_or_path", str(folder), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [check["name"] for check in found if not check["ok"]] == ["card"]
    assert all(check.keys() == {"name", "ok", "detail"} for check in found)


def test_wrong_call(tmp_path, capsys):
    assert main(["validate", "--model_name_or_path", str(tmp_path / "absent")]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and "`model_name_or_path` is " in printed.err
