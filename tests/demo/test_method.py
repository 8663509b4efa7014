"""Every stage of the method runs, on a few steps, and its table says what the results say."""

import json
import subprocess
import sys

import pytest
from transformers import Qwen2_5_VLForConditionalGeneration

from hf_metis_home import MetisHomeForConditionalGeneration
from hf_metis_home.demo.method_demo import COLUMNS, MODELS, STEPS, markdown, rows_of


def results(*accuracies: float) -> dict:
    def cells(value):
        cell = {"accuracy": value, "n": 400, "thinking_ratio": 0.5, "mean_tokens": 12.0}
        return {task: cell for task in (*COLUMNS, "all")}

    seeds = {
        str(seed): {
            "models": {step: cells(value) for step in STEPS},
            "demo": {name: cells(value) for name in MODELS},
            "seconds": {},
        }
        for seed, value in enumerate(accuracies)
    }
    return {"preset": "small", "seeds": seeds}


def test_table_of_one_and_of_two_seeds():
    assert rows_of(results(1.0))[0] == [STEPS["base"], *["100.0 (100.0, 100.0)"] * 4, "50.0", "12.0"]
    # Of two seeds a bootstrap draw has the same one twice half of the time.
    assert rows_of(results(0.0, 1.0), "demo")[0] == ["Base", *["50.0 (0.0, 100.0)"] * 4, "50.0", "12.0"]
    lines = markdown(results(0.25)).splitlines()
    tables = [line for line in lines if line.startswith("|")]
    assert len(tables) == 4 + len(STEPS) + len(MODELS) and all(line.count("|") == len(COLUMNS) + 4 for line in tables)
    assert "**Models from one base**, 1 seed(s)" in lines and "95 % interval" in lines[-1]


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
    assert set(run["demo"]) == set(MODELS) and run["demo"]["hybrid"]["all"]["mean_tokens"] > 0
    assert run["demo"]["base"]["easy"]["accuracy"] == run["models"]["base"]["easy"]["accuracy"]  # one base for both
    assert "seed 0, Hybrid, routed (" in done.stdout and "seed 0, Stage-RL, dense (" in done.stdout
    Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path / "out/seed_0/method/stage_rl")
    for folder in ("hybrid", "method/hybrid"):
        MetisHomeForConditionalGeneration.from_pretrained(tmp_path / "out/seed_0" / folder)
    assert {path.name for path in (tmp_path / "out/seed_0").iterdir()} == {"base", "hybrid", "digits.png", "method"}
    assert {path.name for path in (tmp_path / "out/seed_0/method").iterdir()} == {
        "stage_rl", "data", "data.rollouts.jsonl", "hybrid"
    }  # fmt: skip
