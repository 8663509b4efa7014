"""`metis-home build-data`, from files to a folder: with a model, with a server, killed, and called wrongly."""

import base64
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from datasets import load_dataset

from hf_metis_home.cli import main
from hf_metis_home.data import check_row
from hf_metis_home.miniature.model import build_miniature
from tests.data.chat_server import ChatServer
from tests.data.prompts_common import prompt_rows


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def write_prompts(folder, name="prompts.jsonl", count=12, **columns):
    """A JSON-lines file with images as paths."""
    folder.mkdir(exist_ok=True)
    with (folder / name).open("w") as file:
        for number, row in enumerate(prompt_rows({"sums": count})):
            paths = []
            for image in row["images"]:
                path = folder / f"{number}.png"
                path.write_bytes(image["bytes"])
                paths.append(str(path))
            file.write(json.dumps({**row, "images": paths, **columns}) + "\n")
    return str(folder / name)


def load(folder, tmp_path):
    return load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))["train"]


def test_with_a_server(tmp_path, capsys):
    prompts = write_prompts(tmp_path / "in")
    with ChatServer() as server:
        flags = ["--model_name_or_path", "served", "--endpoint", server.url, "--dataset", prompts]
        assert main(["build-data", *flags, "--output_dir", str(tmp_path / "out"), "--n_rollouts", "2"]) == 0
    output = capsys.readouterr()
    assert "Wrote 12 rows (11 thinking, 1 non-thinking)" in output.out and "Next: metis-home sft" in output.out
    assert output.err == ""  # bars are for terminals
    rows = load(tmp_path / "out", tmp_path)
    for index, row in enumerate(rows):
        check_row(row, index)
        assert len(row["images"]) == (int(row["solution"]) - 4) % 2
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"metis-home build-data --model_name_or_path served --dataset {prompts}" in card
    assert "--temperature" not in card  # what was not given is not repeated


def test_an_untrained_miniature_needs_an_expert(tmp_path, capsys):
    model, processor = build_miniature()
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    flags = ["--model_name_or_path", str(tmp_path / "model"), "--max_new_tokens", "4", "--n_rollouts", "2"]
    prompts = write_prompts(tmp_path / "in", count=4)
    assert main(["build-data", *flags, "--dataset", prompts, "--output_dir", str(tmp_path / "out")]) == 2
    assert "No thinking row is left of 4 prompts" in capsys.readouterr().err
    with ChatServer() as server:
        flags += ["--dataset", prompts, "--expert_endpoint", server.url, "--expert_model", "big"]
        assert main(["build-data", *flags, "--output_dir", str(tmp_path / "with")]) == 0
    rows = load(tmp_path / "with", tmp_path)
    assert len(rows) == 4 and sum(rows["thinking"]) == 3


def test_a_killed_run_goes_on_to_the_same_result(tmp_path):
    prompts = write_prompts(tmp_path / "in", count=30)
    with ChatServer(delay=0.05) as server:

        def flags(name):
            given = ["--model_name_or_path", "served", "--endpoint", server.url, "--dataset", prompts]
            given += ["--n_rollouts", "2", "--concurrency", "1", "--output_dir", str(tmp_path / name)]
            return ["build-data", *given]

        work_file = tmp_path / "out.rollouts.jsonl"
        command = [sys.executable, "-m", "hf_metis_home.cli", *flags("out")]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and (not work_file.exists() or work_file.read_bytes().count(b"\n") < 6):
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kept = work_file.read_bytes().count(b"\n") - 1
        assert 5 <= kept < 30 and not (tmp_path / "out").exists()
        asked = len(server.requests)
        assert main(flags("out")) == 0
        assert len(server.requests) - asked == 30 - kept + 1
        assert main(flags("whole")) == 0
    resumed, whole = (next((tmp_path / name / "data").iterdir()).read_bytes() for name in ("out", "whole"))
    assert resumed == whole


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--temperature", "0"], "`--temperature` is '0', but must be greater than 0"),
        (["--top_p", "1.5", "--n_rollouts", "0"], "`--n_rollouts` is '0', but must be greater than 0"),
        (["--expert_model", "big"], "belong together"),
        (
            ["--model_revision", "v1", "--endpoint", "http://localhost:8000/v1"],
            "the server at `--endpoint` has loaded its own",
        ),
        (["--endpoint", "nowhere"], "`endpoint` is 'nowhere', but must be an address"),
        (["--dataset", "missing.jsonl"], "`dataset` is 'missing.jsonl', which could not be read"),
        (
            ["--model_name_or_path", "missing/model"],
            "`--model_name_or_path` is 'missing/model', which is not a local folder and cannot be loaded",
        ),
    ],
)
def test_a_wrong_call_is_refused_with_one_message(tmp_path, capsys, flags, message):
    prompts = write_prompts(tmp_path / "in", count=2)
    given = {"--model_name_or_path": "missing/model", "--dataset": prompts, "--output_dir": str(tmp_path / "out")}
    given |= dict(zip(flags[::2], flags[1::2], strict=True))
    assert main(["build-data", *(word for pair in given.items() for word in pair)]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") == ["in"]


def test_images_are_kept_byte_by_byte(tmp_path):
    prompts = write_prompts(tmp_path / "in", count=4)
    with ChatServer() as server:
        flags = ["--model_name_or_path", "served", "--endpoint", server.url, "--dataset", prompts, "--n_rollouts", "2"]
        main(["build-data", *flags, "--output_dir", str(tmp_path / "out")])
        sent = [
            part["image_url"]["url"].split(",")[1]
            for request in server.requests
            for part in request["messages"][-1]["content"]
            if part["type"] == "image_url"
        ]
    files = {(tmp_path / "in" / f"{number}.png").read_bytes() for number in (1, 3)}
    assert {base64.b64decode(data) for data in sent} == files
    rows = load(tmp_path / "out", tmp_path)
    stored = {image["bytes"] for row in rows.with_format("arrow")["images"].to_pylist() for image in row}
    assert stored == files


def test_help_is_light():
    code = (
        "import sys; from hf_metis_home.cli import build_data\n"
        "try: build_data.main(['--help'])\n"
        "except SystemExit: print(sorted({'torch', 'datasets', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]" and "--other_mode_share" in done.stdout
