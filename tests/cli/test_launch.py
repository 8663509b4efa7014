"""`--num_processes` and `--accelerate_config`: what is started, without starting it. Real runs: `test_training.py`."""

import os
from subprocess import CalledProcessError

import pytest
import torch
from accelerate.commands import launch as accelerate_launch
from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from hf_metis_home.cli import sft
from hf_metis_home.cli._arguments import UsageError
from hf_metis_home.cli._launch import CONFIGS, LAUNCHED, config_file, launch


FLAGS = "--model_name_or_path m --dataset_name d --output_dir out".split()


@pytest.fixture
def started(monkeypatch):
    """What was started, by which launcher, and with what in the environment."""
    found = []

    def start(name):
        def started(arguments):
            environment = {key: os.environ.get(key) for key in (LAUNCHED, "ACCELERATE_USE_CPU")}
            found.append((name, arguments, environment))

        return started

    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.setattr(torchrun, "run", start("torchrun"))
    monkeypatch.setattr(accelerate_launch, "launch_command", start("accelerate"))
    return found


def gpus(monkeypatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def test_one_process_per_gpu(started, monkeypatch):
    gpus(monkeypatch, 2)
    assert sft.main([*FLAGS, "--num_processes", "2"]) == 0
    [(name, arguments, environment)] = started
    assert name == "torchrun" and arguments.nproc_per_node == "2" and arguments.standalone and arguments.module
    assert arguments.training_script == "hf_metis_home.cli.sft"
    assert arguments.training_script_args == [*FLAGS, "--num_processes", "2"]
    assert environment == {LAUNCHED: "1", "ACCELERATE_USE_CPU": None} and LAUNCHED not in os.environ


def test_a_config_of_the_package(started, monkeypatch):
    gpus(monkeypatch, 8)
    assert sft.main([*FLAGS, "--accelerate_config", "zero3"]) == 0
    [(name, arguments, _)] = started
    assert name == "accelerate" and arguments.config_file == str(CONFIGS / "zero3.yaml")
    assert arguments.num_processes == 8 and arguments.module  # as the file says
    assert arguments.training_script_args == [*FLAGS, "--accelerate_config", "zero3"]


def test_on_cpus_the_processes_are_real(started, monkeypatch):
    gpus(monkeypatch, 0)
    assert sft.main([*FLAGS, "--accelerate_config", "ddp", "--num_processes", "3"]) == 0
    [(name, arguments, environment)] = started
    assert name == "torchrun" and arguments.nproc_per_node == "3" and environment["ACCELERATE_USE_CPU"] == "true"


def test_from_a_recipe_and_only_once(started, monkeypatch, tmp_path):
    gpus(monkeypatch, 2)
    (tmp_path / "recipe.yaml").write_text("model_name_or_path: m\ndataset_name: d\noutput_dir: o\nnum_processes: 2\n")
    trained = []
    monkeypatch.setattr(sft, "_sft", lambda *given: trained.append(given))
    given = ["--config", str(tmp_path / "recipe.yaml"), "--use_cpu", "--bf16", "false"]
    assert sft.main(given) == 0 and len(started) == 1 and not trained
    assert sft.main([*given, "--dry_run"]) == 0 and len(started) == 1 and len(trained) == 1
    monkeypatch.setenv("WORLD_SIZE", "1")  # under `torchrun` or `accelerate launch`
    assert sft.main(given) == 0 and len(started) == 1 and len(trained) == 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--num_processes", "3"], "3 processes need 3 GPUs, but this machine has 2. Set --num_processes 2 or less."),
        (["--num_processes", "0"], "`--num_processes` is '0', but must be greater than 0."),
        (["--accelerate_config", "zero9"], "`--accelerate_config` is 'zero9', which is neither a file nor one of ddp"),
        (["--num_processes", "2", "--learning_rates", "1"], "unknown flag --learning_rates"),
    ],
)
def test_wrong_calls_start_nothing(started, monkeypatch, capsys, more, message):
    gpus(monkeypatch, 2)
    assert sft.main([*FLAGS, *more]) == 2 and not started
    assert message in capsys.readouterr().err


def test_the_exit_code_is_that_of_the_process_that_failed(monkeypatch):
    gpus(monkeypatch, 2)

    def fail(error):
        def run(arguments):
            raise error

        return run

    failure = ProcessFailure(local_rank=1, pid=1, exitcode=2, error_file="")
    monkeypatch.setattr(torchrun, "run", fail(ChildFailedError("sft", {1: failure})))
    assert launch("sft", FLAGS, sft.SFTArguments("m", ["d"], num_processes=2), use_cpu=False) == 2
    monkeypatch.setattr(accelerate_launch, "launch_command", fail(CalledProcessError(3, "sft")))
    assert launch("sft", FLAGS, sft.SFTArguments("m", ["d"], accelerate_config="one_gpu"), use_cpu=False) == 3


def test_a_file_of_ones_own(tmp_path):
    (tmp_path / "mine.yaml").write_text("num_processes: 1\n")
    assert config_file(str(tmp_path / "mine.yaml")) == str(tmp_path / "mine.yaml")
    assert config_file("fsdp2").endswith("accelerate_configs/fsdp2.yaml")


def test_a_broken_file_is_named_by_its_own_flag(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("num_processes: [")
    with pytest.raises(UsageError, match="`--accelerate_config` is .*cannot be read as YAML"):
        launch("sft", FLAGS, sft.SFTArguments("m", ["d"], accelerate_config=str(path)), use_cpu=True)
