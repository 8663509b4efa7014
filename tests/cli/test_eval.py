"""`metis-home eval`: the folder that it writes, and going on where it was killed."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from PIL import Image
from pyarrow import parquet

from hf_metis_home.cli import eval as eval_verb
from hf_metis_home.cli import main
from hf_metis_home.cli.eval import EvalArguments
from hf_metis_home.conversion import save_hub_folder
from hf_metis_home.evaluation.outcomes import read_outcomes
from hf_metis_home.evaluation.run_record import run_settings
from tests.trainers.common import make_hybrid, make_rows


SECONDS = ["seconds_thinking", "seconds_non_thinking"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eval")
    save_hub_folder(*make_hybrid(), folder / "hybrid")
    Dataset.from_list(make_rows((True, False) * 8)).to_parquet(folder / "rows.parquet")
    return folder


def flags(folder: Path, out: Path, *more: str) -> list[str]:
    given = ["--model_name_or_path", str(folder / "hybrid")]
    if "--tasks" not in more:
        given += ["--tasks", str(folder / "rows.parquet")]
    return [*given, "--output_dir", str(out), "--max_new_tokens", "4", *more]


def test_the_folder(folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert eval_verb.main(flags(folder, out, "--limit", "6")) == 0
    printed = capsys.readouterr().out
    assert f"Wrote 6 outcomes to {out}/outcomes.parquet. Next" in printed and "thinking" in printed
    assert {file.name for file in out.iterdir()} == {
        "outcomes.parquet", "questions.parquet", "run.json", "report.html", "results.json", "model_index.json", "plots",
    }  # fmt: skip
    assert [file.name for file in tmp_path.iterdir()] == ["out"]  # the work file is gone
    outcomes = read_outcomes(out / "outcomes.parquet")
    questions = parquet.read_table(out / "questions.parquet").to_pylist()
    rows = Dataset.from_parquet(str(folder / "rows.parquet"))
    assert [(row["task"], row["id"]) for row in questions] == list(zip(outcomes["task"], outcomes["id"], strict=True))
    for question, row in zip(questions, rows, strict=False):
        assert question["question"] == row["prompt"][-1]["content"] and question["solution"] == row["solution"]
        assert (question["image"] is None) == (not row["images"])
        if row["images"]:
            assert Image.open(io.BytesIO(question["image"])).size == row["images"][0].size
    run = json.loads((out / "run.json").read_text())
    assert run["arguments"]["limit"] == 6 and run["rows"] == 6 and run["failed"] == 0 and run["versions"]["torch"]
    assert (
        "answer_format" in run["model"]
        and run["thinking_threshold"] == 0.5
        and len(run["questions_sha256"]) == len(run["model"]["config_sha256"]) == 64
    )
    generating = sum(sum(outcomes[name]) for name in SECONDS)
    assert run["seconds_generating"] == pytest.approx(generating, abs=1e-2) and run["seconds_last_run"] > generating


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_table(folder, tmp_path, capsys):
    more = ["--batch_size", "1", "--max_new_tokens", "40"]
    work = tmp_path / "out.outcomes.jsonl"
    command = [sys.executable, "-m", "hf_metis_home.cli", "eval", *flags(folder, tmp_path / "out", *more)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and (not work.exists() or work.read_bytes().count(b"\n") < 4):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = work.read_bytes().count(b"\n") - 1
    assert 3 <= kept < 16 and not (tmp_path / "out").exists()

    assert eval_verb.main(flags(folder, tmp_path / "out", *more, "--seed", "1")) == 2
    assert "`seed` was 0 and is 1" in capsys.readouterr().err
    assert eval_verb.main(flags(folder, tmp_path / "out", *more, "--limit", "15")) == 2
    assert "`questions` was" in capsys.readouterr().err
    assert work.read_bytes().count(b"\n") - 1 == kept

    assert eval_verb.main(flags(folder, tmp_path / "out", *more)) == 0
    assert not work.exists()
    assert eval_verb.main(flags(folder, tmp_path / "whole", *more)) == 0
    resumed, whole = (read_outcomes(tmp_path / name / "outcomes.parquet") for name in ("out", "whole"))
    assert resumed.remove_columns(SECONDS).to_dict() == whole.remove_columns(SECONDS).to_dict()
    assert None not in resumed["seconds_thinking"]


def test_answers_have_room_in_a_model_of_few_positions(folder, tmp_path, capsys):
    shutil.copytree(folder / "hybrid", tmp_path / "short")
    config = json.loads((tmp_path / "short/config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 160
    (tmp_path / "short/config.json").write_text(json.dumps(config))
    given = ["--model_name_or_path", str(tmp_path / "short"), "--tasks", str(folder / "rows.parquet"), "--limit", "2"]
    assert eval_verb.main([*given, "--output_dir", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out/run.json").read_text())["arguments"]["max_new_tokens"] == 80
    assert read_outcomes(tmp_path / "out/outcomes.parquet")["error"] == [None, None]
    capsys.readouterr()
    assert eval_verb.main([*given, "--output_dir", str(tmp_path / "no"), "--max_new_tokens", "160"]) == 2
    assert "`max_new_tokens` is 160, but the model has 160 positions" in capsys.readouterr().err


def test_other_weights_in_the_same_folder_are_noticed(folder, tmp_path):
    model, _ = make_hybrid()
    rows = Dataset.from_parquet(str(folder / "rows.parquet"))
    arguments = asdict(EvalArguments(model_name_or_path=str(tmp_path), output_dir="out"))
    found = []
    for step in (0.0, 0.0, 1e-3):
        with torch.no_grad():
            model.lm_head.weight[0, 0] += step
        model.save_pretrained(tmp_path)
        found.append(run_settings(arguments, model, rows))
    assert found[0] == found[1]
    assert {name for name in found[0] if found[0][name] != found[2][name]} == {"weights"}


def test_what_is_complete_is_not_overwritten(folder, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/outcomes.parquet").write_text("kept")
    assert eval_verb.main(flags(folder, tmp_path / "out")) == 2
    assert "which is not empty" in capsys.readouterr().err
    assert (tmp_path / "out/outcomes.parquet").read_text() == "kept"


def test_failed_rows_are_counted_and_kept(folder, tmp_path, capsys):
    rows = make_rows((True, False) * 2)
    file = io.BytesIO()
    Image.new("RGB", (56, 56)).save(file, "PNG")
    rows = [{**row, "images": [{"bytes": file.getvalue(), "path": None}]} for row in rows]
    rows[2]["images"] = [{"bytes": file.getvalue()[:50], "path": None}]
    from datasets import Features, List
    from datasets import Image as ImageFeature

    features = Features({**Dataset.from_list(rows[:1]).features, "images": List(ImageFeature())})
    Dataset.from_list(rows, features=features).to_parquet(tmp_path / "bad.parquet")
    assert eval_verb.main(flags(folder, tmp_path / "out", "--tasks", str(tmp_path / "bad.parquet"))) == 0
    assert "Wrote 4 outcomes" in (printed := capsys.readouterr().out) and "1 failed, see the column `error`" in printed
    outcomes = read_outcomes(tmp_path / "out/outcomes.parquet")
    assert [error is None for error in outcomes["error"]] == [True, True, False, True]
    assert parquet.read_table(tmp_path / "out/questions.parquet")["image"].to_pylist()[2] is None
    assert json.loads((tmp_path / "out/run.json").read_text())["failed"] == 1


def test_rows_of_json_lines_fail_alone(folder, tmp_path, capsys):
    rows = [
        {"prompt": [{"role": "user", "content": "is it red"}], "solution": gold, "task": 1, "subject": 3}
        for gold in ("4", ".", "5")
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert eval_verb.main(flags(folder, tmp_path / "out", "--tasks", str(tmp_path / "rows.jsonl"))) == 0
    assert "1 failed, see the column `error`" in capsys.readouterr().out
    outcomes = read_outcomes(tmp_path / "out/outcomes.parquet")
    assert [error is None for error in outcomes["error"]] == [True, False, True]
    questions = parquet.read_table(tmp_path / "out/questions.parquet").to_pylist()
    assert {(row["task"], row["subject"]) for row in questions} == {("1", "3")}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--tasks", "cornre"], "`tasks` has 'cornre', which is not a known task or dataset. Known are shapes, corner"),
        (["--tasks", "missing.yaml"], "`tasks` has 'missing.yaml', which is not a file. Available by name: ['ai2d'"),
        (["--tasks", "some/missing.parquet"], "`tasks` is 'some/missing.parquet', which could not be read"),
        (["--tasks", "corner", "corner"], "`tasks` has 'corner' more than once"),
        (["--limit", "0"], "`--limit` is '0', but must be greater than 0"),
        (["--batch_size", "0"], "`--batch_size` is '0', but must be greater than 0"),
        (["--dataset", "rows.parquet"], "unknown flag --dataset. Did you mean --dataset_split?"),
    ],
)
def test_wrong_calls(folder, tmp_path, capsys, more, message):
    assert main(["eval", *flags(folder, tmp_path / "out", *more)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
