"""`metis-home fit-router`: the commands of its page, the folder that it writes, and what it refuses."""

import json
import re
from pathlib import Path

import pytest
import torch
from datasets import Dataset, DatasetDict
from transformers import AutoModelForImageTextToText, AutoProcessor

from hf_metis_home.cli import main
from hf_metis_home.conversion import export_checkpoint, upcycle_checkpoint, validate_checkpoint
from hf_metis_home.data import prompt_inputs
from hf_metis_home.trainers.fit_router import fit_router
from tests.conversion.common import hybrid_of, perturb, save_dense, stored
from tests.modeling.tiny import KINDS
from tests.pages import all_blocks, split_commands
from tests.trainers.test_fit_router import ROWS, is_hard, probabilities, with_task


ROUTER = "model.language_model.router."
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # where the command fits


def make_hybrid(folder: Path, **options) -> Path:
    """A folder whose branches differ and whose router has an opinion."""
    hybrid = upcycle_checkpoint(save_dense(folder / "dense"), folder / "hybrid", router_hidden_size=8, **options)
    return perturb(hybrid, (".thinking.", ".non_thinking.", "router.score"))


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory):
    return make_hybrid(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.parquet"
    Dataset.from_list([{**row, "solution": "4"} for row in with_task(ROWS)]).to_parquet(path)
    return path


def command(hybrid, rows, output_dir, *more) -> list[str]:
    flags = {"model_name_or_path": hybrid, "dataset": rows, "output_dir": output_dir}
    return ["fit-router", *(word for name, value in flags.items() for word in (f"--{name}", str(value))), *more]


def test_commands_of_the_page(tmp_path, monkeypatch, hybrid, rows, capsys):
    monkeypatch.chdir(tmp_path)
    Path("my-hybrid").symlink_to(hybrid)
    Path("rows.parquet").write_bytes(rows.read_bytes())
    # What two modes make of the rows: the steps help with hard questions and harm the easy ones.
    import hf_metis_home.evaluation.outcomes as module

    collect = module.collect_outcomes

    def collected(*arguments, **options):
        table = collect(*arguments, **{**options, "max_new_tokens": 2})
        hard = is_hard()
        return table.map(
            lambda row, n: {
                "correct_thinking": bool(hard[n]), "correct_non_thinking": not hard[n],
                "tokens_thinking": 20, "tokens_non_thinking": 10,
            },
            with_indices=True,
        )  # fmt: skip

    monkeypatch.setattr(module, "collect_outcomes", collected)
    names, count = {}, 0
    for block in all_blocks("docs/fit_router.md"):
        if block.language == "python":
            exec(block.code, names)
        for program, *words in split_commands(block.code) if block.language == "bash" else ():
            assert program == "metis-home" and main(words) == 0, words
            out = Path(words[words.index("--output_dir") + 1])
            found = probabilities(hybrid_of(out), AutoProcessor.from_pretrained(out, trust_remote_code=True))
            assert torch.equal(found > 0.5, is_hard())
            count += 1
    assert count == 2 and names["fit"].policies["router"]["tokens"] == pytest.approx(15.0)
    printed = capsys.readouterr().out
    assert "agrees with label" in printed and "utility" in printed and "before, best threshold" in printed
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    "kind",
    [kind if kind in ("ffn_1", "lora_attention_0") else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS],
)
def test_only_the_router_is_new(tmp_path, kind, rows, capsys):
    hybrid = make_hybrid(tmp_path, **KINDS[kind])
    out = tmp_path / "out"
    assert main(command(hybrid, rows, out, "--steps", "50", "--seed", "3")) == 0
    printed = capsys.readouterr().out
    assert f"Wrote the model with its new router to {out}" in printed.splitlines()[-1]
    before, after = stored(hybrid), stored(out)
    assert before.keys() == after.keys()
    assert all(after[name].dtype == tensor.dtype for name, tensor in before.items())
    changed = {name.removeprefix(ROUTER) for name, tensor in before.items() if not torch.equal(after[name], tensor)}
    assert changed == {"query.weight", "up_proj.weight", "up_proj.bias", "score.weight", "score.bias"}
    defaults = [json.loads((folder / "generation_config.json").read_text()) for folder in (hybrid, out)]
    assert defaults[0] == defaults[1]
    assert all(check.ok is not False for check in validate_checkpoint(out))

    # The same as in memory, and the same after another save.
    model, processor = hybrid_of(hybrid).to(DEVICE), AutoProcessor.from_pretrained(hybrid, trust_remote_code=True)
    fit = fit_router(model, processor, Dataset.from_parquet(str(rows)), steps=50, seed=3)
    expected = probabilities(model.cpu(), processor)
    loaded = AutoModelForImageTextToText.from_pretrained(out, trust_remote_code=True)
    assert torch.equal(probabilities(loaded, processor), expected)
    loaded.save_pretrained(tmp_path / "again")
    assert torch.equal(probabilities(hybrid_of(tmp_path / "again"), processor), expected)
    inputs = prompt_inputs(processor, ROWS[:2])
    for branch in (True, False):
        answers = [m.generate(**inputs, thinking=branch, max_new_tokens=3) for m in (hybrid_of(hybrid), loaded)]
        assert torch.equal(*answers)

    record = json.loads((out / "fit_router.json").read_text())
    assert record["calibrated"]["accuracy"] == fit.calibrated.accuracy and record["steps"] == 50
    assert (
        record["command"].startswith("metis-home fit-router --model_name_or_path") and "--seed 3" in record["command"]
    )
    assert record["learned_from"] == "labels" and record["policies"]["oracle"]["accuracy"] == 1.0
    card = (out / "README.md").read_text()
    assert f"on labels of 32 rows. On 8 held-out rows it agreed with {fit.calibrated.accuracy:.1%}" in card


def test_datasets_in_every_form(tmp_path, hybrid, rows):
    dataset = Dataset.from_parquet(str(rows))
    dataset.save_to_disk(tmp_path / "saved")
    DatasetDict({"train": dataset, "test": dataset.select(range(2))}).save_to_disk(tmp_path / "splits")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "data.parquet").write_bytes(rows.read_bytes())
    assert main(command(hybrid, rows, tmp_path / "file", "--steps", "1")) == 0
    DatasetDict({"a": dataset.select(range(2)), "b": dataset}).save_to_disk(tmp_path / "named")
    for name in ("saved", "splits", "folder", "named"):
        split = ["--dataset_split", "b"] if name == "named" else []
        assert main(command(hybrid, tmp_path / name, tmp_path / f"out-{name}", "--steps", "1", *split)) == 0
        for tensor, expected in zip(
            stored(tmp_path / f"out-{name}").values(), stored(tmp_path / "file").values(), strict=True
        ):
            assert torch.equal(tensor, expected)


def test_a_router_alone_can_be_fitted(tmp_path, hybrid, rows):
    export_checkpoint(hybrid, tmp_path / "alone", format="router")
    assert main(command(tmp_path / "alone", rows, tmp_path / "out")) == 0
    whole = tmp_path / "whole"
    assert main(command(hybrid, rows, whole)) == 0
    found, expected = stored(tmp_path / "out"), stored(whole)
    found, expected = ({name.partition(".router.")[2]: t for name, t in tensors.items() if ".router." in name}
                       for tensors in (found, expected))  # fmt: skip
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


def test_a_threshold_that_is_not_half_is_mentioned(tmp_path, rows, capsys):
    hybrid = make_hybrid(tmp_path)
    config = json.loads((hybrid / "config.json").read_text())
    (hybrid / "config.json").write_text(json.dumps({**config, "thinking_threshold": 0.3}))
    assert main(command(hybrid, rows, tmp_path / "out", "--steps", "1")) == 0
    assert "thinking_threshold 0.3;" in capsys.readouterr().out
    assert hybrid_of(tmp_path / "out").config.thinking_threshold == 0.3


def test_refusals(tmp_path, hybrid, rows, capsys):
    dense = hybrid.parent / "dense"
    Dataset.from_list([{"a": 1}]).to_parquet(tmp_path / "other.parquet")
    DatasetDict({n: Dataset.from_list(ROWS[:2]) for n in "ab"}).save_to_disk(tmp_path / "splits")
    for words, message in [
        (command(dense, rows, tmp_path / "out"), "not a two-branch model"),
        (command(hybrid, tmp_path / "gone.parquet", tmp_path / "out"), "`dataset` is .*which could not be read"),
        (command(hybrid, tmp_path / "splits", tmp_path / "out"), r"has no split 'train', only \['a', 'b'\]"),
        (command(hybrid, tmp_path / "other.parquet", tmp_path / "out"), "Row 0 of `rows` has `thinking` None"),
        (command(hybrid, rows, hybrid), "`output_dir` is .*not empty"),
        (command(hybrid, rows, tmp_path / "out", "--outcomes", "gone.parquet"), "`outcomes` is 'gone.parquet'"),
        (command(hybrid, rows, tmp_path / "out", "--outcomes", str(rows)), "has no column 'id'"),
        (command(hybrid, rows, tmp_path / "out", "--token_cost", "1"), "which only applies to `outcomes`"),
        (command(hybrid, rows, tmp_path / "out", "--epochs", "1"), "unknown flag --epochs"),
        (command(hybrid, rows, tmp_path / "out", "--learning_rate", "nan"), "`--learning_rate` is 'nan', but must be"),
    ]:
        assert main(words) == 2
        assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*"))
