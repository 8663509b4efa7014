"""Every stage of the method runs, on a few steps."""

import json
import subprocess
import sys

import pytest
from transformers import Qwen2_5_VLForConditionalGeneration

from hf_metis_home import MetisHomeForConditionalGeneration
from hf_metis_home.demo.tables import MODELS, STEPS


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
