"""The benchmark of evaluation runs at a tiny size and writes what the page needs."""

import re

import pytest

from benchmarks import evaluation
from hf_metis_home.conversion import save_hub_folder, upcycle
from hf_metis_home.evaluation import outcomes
from hf_metis_home.miniature.model import build_miniature


@pytest.mark.slow
def test_evaluation_benchmark(tmp_path):
    dense, processor = build_miniature()
    save_hub_folder(upcycle(dense, processor, thinking_model=dense), processor, tmp_path / "hybrid")
    planned = outcomes.plan_batches
    flags = ["--model_name_or_path", str(tmp_path / "hybrid"), "--output", str(tmp_path / "page.md"), "--repeats", "1"]
    assert evaluation.main([*flags, "--questions", "8", "--mix_questions", "8", "--batch_size", "4"]) == 0
    assert outcomes.plan_batches is planned
    page = (tmp_path / "page.md").read_text()
    assert str(tmp_path) not in page and "--model_name_or_path runs/demo/hybrid" in page
    [(seconds, inside)] = re.findall(
        r"^8 questions, both branches, batches of 4: ([\d.]+) s, of which ([\d.]+) s", page, re.M
    )
    assert 0 < float(inside) <= float(seconds)  # rounded
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")][2:]
    assert [row[0] for row in rows] == [*evaluation.MIXES, "all tasks, prompts of two lengths"]
    assert all(len(row) == 5 and float(row[4]) > 0 for row in rows)
