"""The whole thread, for a few steps: what it leaves on disk, and what it refuses before it begins."""

import json
import os
import subprocess
import sys
from concurrent.futures import Future
from dataclasses import replace

import pytest
from huggingface_hub import ModelCard

from hf_metis_home.cli import main
from hf_metis_home.demo import comparison as demo
from hf_metis_home.demo.comparison import run_demo
from hf_metis_home.demo.presets import PRESETS
from hf_metis_home.miniature.tasks import TASKS
from tests.trainers.test_checkpoints import COMPLETE


WRITTEN = {"report.html", "results.json", "hybrid", "base", "digits.png"}
MODELS = {"base", "reasoning_only", "dense_mixed", "hybrid", "hybrid_thinking", "hybrid_non_thinking"}


class InThisProcess:
    """In place of the pool of processes in which the stages run, each of which would import everything again."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, function, *arguments):
        future = Future()
        future.set_result(function(*arguments))
        return future


def check_run(folder) -> None:
    assert {path.name for path in folder.iterdir()} == WRITTEN
    results = json.loads((folder / "results.json").read_text())
    assert results["models"].keys() == MODELS
    for tasks in results["models"].values():
        assert tasks.keys() == {*TASKS, "easy", "hard"}
        for cell in tasks.values():
            assert cell.keys() == {"accuracy", "stderr", "n", "malformed", "thinking_ratio", "mean_tokens"}
        assert (tasks["chain"]["n"], tasks["easy"]["n"], tasks["hard"]["n"]) == (4, 16, 8)
    assert all(cell["thinking_ratio"] == 1 for cell in results["models"]["hybrid_thinking"].values())
    assert all(cell["thinking_ratio"] == 0 for cell in results["models"]["hybrid_non_thinking"].values())
    assert results["seconds"].keys() == {"base", "reasoning_only", "dense_mixed", "hybrid"}
    assert "mean nothing" in results["statement"][0]
    assert "mean nothing" in (folder / "report.html").read_text()

    assert COMPLETE <= {path.name for path in (folder / "hybrid").iterdir()}
    assert "metis-home" in ModelCard.load(folder / "hybrid" / "README.md").data.tags
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in (folder / "base").iterdir()}


def test_all_parts_meet(tmp_path, monkeypatch, capsys):
    new_process = demo.ProcessPoolExecutor  # in which nothing of ours is registered: what reads the result back
    monkeypatch.setattr(
        demo,
        "ProcessPoolExecutor",
        lambda count, **given: InThisProcess() if count > 1 else new_process(count, **given),
    )
    monkeypatch.setattr(demo, "be_quiet", lambda: None)
    assert main(["demo", "--preset", "smoke", "--output_dir", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out
    assert f"Wrote {tmp_path / 'run'}: report.html" in printed and "figures mean nothing" in printed
    check_run(tmp_path / "run")


@pytest.mark.slow
def test_smoke(tmp_path):
    command = [sys.executable, "-m", "hf_metis_home.cli", "demo", "--preset", "smoke", "--output_dir", "run"]
    env = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=env, stdin=subprocess.DEVNULL, timeout=500
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("Wrote run: report.html, results.json, hybrid/")
    assert "figures mean nothing" in done.stdout
    unwanted = ("Warning", "%|", "register_constant", "kernels-community")
    assert not [words for words in unwanted if words in done.stdout + done.stderr]
    check_run(tmp_path / "run")


def test_refusals_come_before_any_work(tmp_path):
    with pytest.raises(ValueError, match=r"`preset` is 'tiny', but must be one of \['smoke', 'small', 'full'\]"):
        run_demo("tiny", output_dir=tmp_path / "run")
    (tmp_path / "kept").write_text("")
    with pytest.raises(FileExistsError, match="`output_dir` is .*which is not empty. Choose another folder"):
        run_demo("smoke", output_dir=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_only_full_takes_several_seeds():
    assert {name: preset.seeds for name, preset in PRESETS.items()} == {"smoke": 1, "small": 1, "full": 3}


@pytest.mark.slow
def test_several_seeds(tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "smoke", replace(PRESETS["smoke"], seeds=2))
    results = run_demo("smoke", seed=3, output_dir=tmp_path / "run")
    assert [run["seed"] for run in results["seeds"]] == [3, 4] and results["seed"] == 3
    for name, tasks in results["models"].items():
        for task, cell in tasks.items():
            single = [run["models"][name][task] for run in results["seeds"]]
            assert cell["n"] == sum(each["n"] for each in single)
            assert cell["accuracy"] == pytest.approx(sum(each["accuracy"] for each in single) / 2)
            assert cell["spread"].keys() == {"accuracy", "stderr", "malformed", "thinking_ratio", "mean_tokens"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == WRITTEN
