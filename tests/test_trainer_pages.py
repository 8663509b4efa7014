"""The pages about both trainers: their code and their command train tiny models, with what this machine lacks added."""

from pathlib import Path

import pytest
from datasets import Dataset
from transformers import AutoModelForImageTextToText

from hf_metis_home.cli import main
from hf_metis_home.conversion import save_hub_folder

from .conversion.common import dense_of, save_dense
from .pages import blocks, commands
from .trainers.common import make_hybrid, make_rows


CPU = 'use_cpu=True, bf16=False, max_steps=1, report_to="none", gradient_checkpointing=False, '


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_hub_folder(*make_hybrid(), Path("runs/hybrid"))
    save_dense(Path("Qwen/Qwen2.5-VL-3B-Instruct"))
    for name in ("data", "prompts"):
        Path("runs", name).mkdir()
        Dataset.from_list(make_rows((True, False) * 8)).to_parquet(f"runs/{name}/train.parquet")


def test_stage_sft():
    code = blocks("docs/sft_trainer.md", "python")[0]  # the picture at the end: trainers/test_reporting.py
    exec(code.replace("SFTConfig(output_dir", f"SFTConfig({CPU}output_dir"), {})
    AutoModelForImageTextToText.from_pretrained("runs/sft")
    Path("runs/sft").rename("moved")
    [[program, *words]] = commands("docs/sft_trainer.md")
    words += "--use_cpu --bf16 false --max_steps 1 --report_to none --gradient_checkpointing false".split()
    assert program == "metis-home" and main(words) == 0
    AutoModelForImageTextToText.from_pretrained("runs/sft")


def test_stage_rl():
    [code] = blocks("docs/grpo_trainer.md", "python")
    short = CPU + "max_completion_length=4, mask_truncated_completions=False, "  # an untrained model never ends
    exec(code.replace("GRPOConfig(output_dir", f"GRPOConfig({short}output_dir"), {})
    assert dense_of("runs/rl/checkpoint-1").config.model_type == "qwen2_5_vl"
