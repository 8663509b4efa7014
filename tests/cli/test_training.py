"""`metis-home sft` and `grpo` from the command line to the folder that they write."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from datasets import Dataset
from transformers import AutoModelForImageTextToText

from hf_metis_home.cli import eval as eval_verb
from hf_metis_home.cli import grpo, sft
from hf_metis_home.conversion import save_hub_folder
from tests.trainers.common import make_hybrid, make_rows


CPU = "--use_cpu --bf16 false --report_to none --gradient_checkpointing false --save_strategy no".split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("training")
    model, processor = make_hybrid()
    save_hub_folder(model, processor, folder / "hybrid")
    Dataset.from_list(make_rows((True, False) * 8)).to_parquet(folder / "rows.parquet")
    Dataset.from_list(make_rows((False,) * 8)).to_parquet(folder / "more.parquet")
    return folder


def flags(folder: Path, out: Path, *more: str) -> list[str]:
    given = ["--model_name_or_path", str(folder / "hybrid")]
    if "--dataset_name" not in more:
        given += ["--dataset_name", str(folder / "rows.parquet")]
    return [*given, "--output_dir", str(out), *CPU, "--max_steps", "2", *more]


def test_sft(folder, tmp_path, capsys):
    assert sft.main(flags(folder, tmp_path / "out", "--per_device_train_batch_size", "4")) == 0
    assert f"Wrote the model after 2 steps to {tmp_path / 'out'}" in capsys.readouterr().out
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    before = AutoModelForImageTextToText.from_pretrained(folder / "hybrid")
    assert not model.lm_head.weight.equal(before.lm_head.weight)
    assert json.loads((tmp_path / "out/run.json").read_text())["arguments"]["max_steps"] == 2


def test_sft_on_a_mixture(folder, tmp_path, capsys):
    both = ["--dataset_name", str(folder / "rows.parquet"), str(folder / "more.parquet"), "--dry_run"]
    assert sft.main(flags(folder, tmp_path / "out", *both, "--dataset_weights", "1", "1")) == 0
    assert "16 training rows" in capsys.readouterr().out
    assert sft.main(flags(folder, tmp_path / "out", *both, "--dataset_weights", "1")) == 2
    assert "`dataset_weights` has 1 values, but `dataset_name` has 2 datasets" in capsys.readouterr().err


def test_grpo(folder, tmp_path, capsys):
    more = "--rollout_branch both --num_generations 4 --per_device_train_batch_size 8 --max_completion_length 4"
    more += " --rewards format accuracy soft_overlong thought_leak --learning_rate 1e-2 --mask_truncated_completions no"
    assert grpo.main(flags(folder, tmp_path / "out", *more.split())) == 0
    captured = capsys.readouterr().out
    assert f"Next: metis-home validate --model_name_or_path {tmp_path / 'out'}" in captured
    AutoModelForImageTextToText.from_pretrained(tmp_path / "out")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--rewards", "accurate"], "`--rewards` is .'accurate'., but must be 'accuracy', 'format'"),
        (["--rollout_branch", "both", "--num_generations", "3"], "must be divisible|must be even"),
        ([], "`rollout_branch` is not given"),
        (["--rollout_branch", "left"], "must be 'thinking', 'non_thinking', 'both' or 'router'"),
        (["--token_cots", "1"], "Did you mean --token_cost"),
        (["word"], "unexpected positional argument 'word'"),
        (["--learning_rate", "fast"], "`--learning_rate` is 'fast', but must be a valid number"),
    ],
)
def test_wrong_calls_of_grpo(folder, tmp_path, capsys, more, message):
    import re

    assert grpo.main(flags(folder, tmp_path / "out", *more, "--dry_run")) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_a_reward_without_its_column_is_refused_before_the_model_is_loaded(folder, tmp_path, capsys):
    rows = Dataset.from_parquet(str(folder / "rows.parquet")).remove_columns(["solution"])
    rows.to_parquet(tmp_path / "rows.parquet")
    more = ["--rollout_branch", "thinking", "--dataset_name", str(tmp_path / "rows.parquet")]
    assert grpo.main(flags(folder, tmp_path / "out", *more)) == 2
    captured = capsys.readouterr().err
    assert "reads 'solution', but the training dataset has no such column" in captured and "Loading" not in captured


def test_what_the_libraries_refuse_is_one_message(folder, tmp_path, capsys):
    adapters = ["--use_peft", "--lora_target_modules", "no_such_module"]
    assert sft.main(flags(folder, tmp_path / "out", *adapters)) == 2
    assert "Target modules no_such_module not found" in capsys.readouterr().err


def test_training_rows_are_not_evaluated_on(folder, tmp_path, capsys):
    given = flags(folder, tmp_path / "out", "--eval_strategy", "steps", "--eval_steps", "1")
    assert sft.main(given) == 2
    assert "a file without splits" in capsys.readouterr().err


@pytest.mark.parametrize("module", [eval_verb, sft, grpo])
def test_a_model_that_is_not_there(folder, tmp_path, capsys, module):
    given = flags(folder, tmp_path / "out", "--model_name_or_path", str(tmp_path / "missing"))
    if module is eval_verb:
        given = ["--model_name_or_path", str(tmp_path / "missing"), "--output_dir", str(tmp_path / "out")]
    assert module.main(given) == 2
    assert "missing" in (captured := capsys.readouterr().err) and "or a Hub id" in captured
    assert not (tmp_path / "out").exists()


def test_what_is_required(capsys):
    assert sft.main(CPU) == 2
    captured = capsys.readouterr().err
    assert "`--model_name_or_path` is required" in captured and "`--dataset_name` is required" in captured


def test_a_list_that_is_given_twice(folder, tmp_path, capsys):
    twice = ["--dataset_name", str(folder / "rows.parquet"), f"--dataset_name={folder / 'more.parquet'}", "--dry_run"]
    assert sft.main(flags(folder, tmp_path / "out", *twice)) == 0
    assert "24 training rows" in capsys.readouterr().out


def test_all_flags_with_hyphens_too(capsys):
    with pytest.raises(SystemExit) as caught:
        sft.main(["--help-all"])
    assert caught.value.code == 0 and "--lora_r " in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["sft", "grpo"])
def test_help_does_not_load_trl(verb):
    code = f"from hf_metis_home.cli.{verb} import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "import sys; print('\\n', 'trl' in sys.modules)"
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False" and "--dataset_name" in done.stdout
    assert time.perf_counter() - started < 20


TORCHRUN = "torch.distributed.run --standalone --nproc_per_node 2 -m hf_metis_home.cli.sft".split()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "more"),
    [
        (TORCHRUN, []),
        (["hf_metis_home.cli", "sft"], ["--num_processes", "2"]),
        (["hf_metis_home.cli.sft"], ["--accelerate_config", "ddp", "--num_processes", "2"]),
    ],
    ids=["torchrun", "num_processes", "accelerate_config"],
)
def test_two_processes(folder, tmp_path, command, more):
    given = flags(folder, tmp_path / "out", "--per_device_train_batch_size", "2", *more)
    env = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run([sys.executable, "-m", *command, *given], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Wrote the model after 2 steps") == 1
    assert json.loads((tmp_path / "out/run.json").read_text())["processes"] == 2
