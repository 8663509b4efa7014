"""A run that is killed and resumed has the losses and the weights of one that was not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from transformers import TrainerCallback

from .common import LOW_RANK, make_hybrid, make_trainer, parameters


OPTIONS = {
    "max_steps": 6,
    "save_strategy": "steps",
    "save_steps": 2,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "linear",
}
COMPARED = ("loss", "lm_loss_thinking", "lm_loss_non_thinking", "router_loss", "grad_norm", "learning_rate")


class Fall(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 3:
            raise RuntimeError("the machine is gone")


def losses(trainer) -> list[dict]:
    return [{name: logs.get(name) for name in COMPARED} for logs in trainer.state.log_history if "loss" in logs]


@pytest.mark.parametrize(("trainable", "kind"), [("all", {}), ("branches", {}), ("branches", LOW_RANK)])
def test_resumed_equals_uninterrupted(tmp_path, trainable, kind):
    whole = make_trainer(tmp_path / "whole", model=make_hybrid(**kind), trainable=trainable, **OPTIONS)
    whole.train()

    options = {**OPTIONS, "trainable": trainable}
    with pytest.raises(RuntimeError, match="the machine is gone"):
        options["trainer_options"] = {"callbacks": [Fall()]}
        make_trainer(tmp_path / "cut", model=make_hybrid(**kind), **options).train()
    del options["trainer_options"]
    # Another start than before: what counts must come from the checkpoint.
    resumed = make_trainer(tmp_path / "cut", model=make_hybrid(seed=5, **kind), **options)
    resumed.train(resume_from_checkpoint=True)

    assert losses(resumed) == losses(whole) and len(losses(whole)) == 6
    for name, tensor in parameters(resumed.model).items():
        assert tensor.equal(parameters(whole.model)[name]), name


def test_a_checkpoint_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="No valid checkpoint found"):
        make_trainer(tmp_path, **OPTIONS).train(resume_from_checkpoint=True)


RUN = """
import sys
from tests.trainers.test_resume import OPTIONS, losses
from tests.trainers.common import make_trainer
import json, time
from transformers import TrainerCallback
class Slow(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        time.sleep(float(sys.argv[2]))
trainer = make_trainer(sys.argv[1], trainer_options={"callbacks": [Slow()]}, **OPTIONS)
trainer.train(resume_from_checkpoint=len(sys.argv) > 3)
print("LOSSES", json.dumps(losses(trainer)))
torch_state = {name: p.double().sum().item() for name, p in trainer.model.named_parameters()}
print("SUMS", json.dumps(torch_state))
"""


def run(*arguments) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", RUN, *map(str, arguments)], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith(("LOSSES", "SUMS"))]


@pytest.mark.slow
def test_killed_process(tmp_path):
    whole = run(tmp_path / "whole", 0)
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, tmp_path / "cut", "1"], cwd=root, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.time() + 120
    while not (tmp_path / "cut" / "checkpoint-2" / "trainer_state.json").exists():
        assert time.time() < deadline and process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert run(tmp_path / "cut", 0, "resume") == whole


def test_random_state_is_not_what_makes_them_equal(tmp_path):
    # Two runs that differ in their start do differ, so the equality above can fail.
    runs = [make_trainer(tmp_path / str(seed), model=make_hybrid(seed=seed), **OPTIONS) for seed in (0, 5)]
    for trainer in runs:
        trainer.train()
    assert losses(runs[0]) != losses(runs[1])
