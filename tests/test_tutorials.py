"""The tutorials: every command and every block runs, in the order of the page, on tiny models."""

import json
import re
from pathlib import Path

import pytest
from datasets import Dataset
from PIL import Image

from hf_metis_home.cli import main
from hf_metis_home.conversion import save_hub_folder
from hf_metis_home.evaluation.outcomes import read_outcomes, write_outcomes

from .conversion.common import hybrid_of, save_dense
from .conversion.test_estimate import real_config
from .pages import all_blocks, split_commands
from .trainers.common import QUESTIONS, make_hybrid, make_rows


# What a tiny model on a CPU needs, beside the words of the page; the last one of a flag counts.
SHORT = {
    "build-data": "--max_new_tokens 2 --n_rollouts 2",
    "sft": "--use_cpu --bf16 false --dtype float32 --max_steps 2 --gradient_checkpointing false",
    "eval": "--max_new_tokens 2 --limit 8",
}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for name in ("picture.png", "red.png"):
        Image.new("RGB", (56, 56), "red").save(name)


def run(blocks, after=lambda words: None) -> int:
    """Run a page's blocks in order; `after` is called after every command."""
    count, names = 0, {}
    for block in blocks:
        if block.language == "python":
            exec(block.code, names)
        for program, *words in split_commands(block.code) if block.language == "bash" else ():
            assert program == "metis-home" and main([*words, *SHORT.get(words[0], "").split()]) == 0, words
            after(words)
            count += 1
    return count


def write_prompts(path: str, **columns):
    rows = [
        {"prompt": QUESTIONS[n % 3], "images": ["red.png"], "solution": str(n), "task": "test", **columns}
        for n in range(8)
    ]
    if "expert_completion" in columns:
        for row in rows:
            row["expert_completion"] = f"<think>7-3=4;</think><answer>{row['solution']}</answer>"
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_own_hybrid(capsys):
    save_dense(Path("Qwen/Qwen2.5-VL-3B-Instruct"))
    write_prompts("prompts.jsonl", expert_completion="")
    write_prompts("general.jsonl")
    Dataset.from_list(make_rows((True, False) * 4)).to_parquet("questions.parquet")
    assert run(all_blocks("docs/tutorials/own_hybrid.md")) == 7
    printed = capsys.readouterr().out
    assert "All checks passed" in printed and "tensor([1])" in printed and "tensor([0])" in printed
    assert Path("runs/outcomes/report.html").is_file()
    before, after = hybrid_of(Path("runs/hybrid")).state_dict(), hybrid_of(Path("runs/sft")).state_dict()
    moved = {name for name, tensor in before.items() if not tensor.equal(after[name])}
    assert {".thinking." in name or ".non_thinking." in name or ".router." in name for name in moved} == {True}


def test_estimate_of_own_hybrid(capsys):
    real_config("3B").save_pretrained("Qwen/Qwen2.5-VL-3B-Instruct")
    page = all_blocks("docs/tutorials/own_hybrid.md")
    [[_, *words]] = split_commands(page[0].code)
    assert main(words) == 0 and words[0] == "estimate" and page[1].language == "text"
    assert page[1].code in re.sub(" +$", "", capsys.readouterr().out, flags=re.M)


def test_branch_on_fine_tune(capsys):
    save_dense(Path("my-finetune"), seed=3)
    Dataset.from_list(make_rows((True,) * 8)).to_parquet("thoughts.parquet")
    Dataset.from_list(make_rows((True, False) * 8)).to_parquet("labels.parquet")
    assert run(all_blocks("docs/tutorials/branch_on_fine_tune.md")) == 4
    assert capsys.readouterr().out.endswith("0 tensors differ\n")
    before, after = hybrid_of(Path("hybrid")).state_dict(), hybrid_of(Path("hybrid-routed")).state_dict()
    moved = {name for name, tensor in before.items() if not tensor.equal(after[name])}
    assert any(".mlp.thinking." in name for name in moved) and any(".router." in name for name in moved)


def test_outcome_router(capsys):
    save_hub_folder(*make_hybrid(), Path("my-hybrid"))
    rows = [{**row, "id": str(n)} for n, row in enumerate(make_rows((True, False) * 4, images=(1,)))]
    for name in ("questions", "held_out"):
        Dataset.from_list(rows).to_parquet(f"{name}.parquet")

    def made_up(words):
        """Untrained branches are never right: who is, is made up."""
        if words[0] == "eval":
            path = Path(words[words.index("--output_dir") + 1]) / "outcomes.parquet"
            table = read_outcomes(path).map(
                lambda row, n: {"correct_thinking": n % 2 == 0, "correct_non_thinking": n % 2 == 1}, with_indices=True
            )
            path.unlink()
            write_outcomes(table, path)

    assert run(all_blocks("docs/tutorials/outcome_router.md"), made_up) == 5
    assert json.loads(Path("routed/config.json").read_text())["calibration"]["target"] == "token_budget"
    assert "utility" in capsys.readouterr().out and Path("report/report.html").is_file()
