"""Every stage of the method runs, on a few steps, and its table says what the results say."""

import json
import subprocess
import sys

import pytest
from transformers import Qwen2_5_VLForConditionalGeneration

from hf_metis_home import MetisHomeForConditionalGeneration
from hf_metis_home.lab.method_demo import COLUMNS, STEPS, markdown, rows_of


def results(*accuracies: float) -> dict:
    def cells(value):
        cell = {"accuracy": value, "thinking_ratio": 0.5, "mean_tokens": 12.0}
        return {task: cell for task in (*COLUMNS, "all")}

    seeds = {
        str(seed): {"models": {step: cells(value) for step in STEPS}, "seconds": {}}
        for seed, value in enumerate(accuracies)
    }
    return {"preset": "small", "seeds": seeds}


def test_table_of_one_and_of_two_seeds():
    assert rows_of(results(0.25))[0] == [STEPS["base"], *["25.0"] * 4, "50.0", "12.0"]
    assert rows_of(results(0.25, 0.75))[0][1] == "50.0 (25.0, 75.0)"
    lines = markdown(results(0.25)).splitlines()
    assert len(lines) == 2 + len(STEPS) and all(line.count("|") == len(COLUMNS) + 4 for line in lines)


def test_a_step_that_failed_in_one_seed():
    found = results(0.25, 0.75)
    found["seeds"]["1"]["models"]["outcome_router"] = None
    assert rows_of(found)[-1][1:] == ["–"] * 6


@pytest.mark.slow
def test_all_stages(tmp_path):
    command = [sys.executable, "-m", "hf_metis_home.cli.demo", "--stages", "all", "--preset", "smoke"]
    done = subprocess.run([*command, "--output_dir", str(tmp_path / "out")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "figures mean nothing" in done.stdout and f"Wrote {tmp_path / 'out'}" in done.stdout
    found = json.loads((tmp_path / "out/method.json").read_text())
    run = found["seeds"]["0"]
    assert set(run["models"]) == set(STEPS) and set(run["data"]) >= {"chain", "squares"}
    Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path / "out/seed_0/stage_rl")
    MetisHomeForConditionalGeneration.from_pretrained(tmp_path / "out/seed_0/hybrid")
    assert {path.name for path in (tmp_path / "out/seed_0").iterdir()} == {
        "base", "stage_rl", "data", "data.rollouts.jsonl", "hybrid"
    }  # fmt: skip
