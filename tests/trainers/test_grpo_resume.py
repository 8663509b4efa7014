"""A run that is killed within its rollouts and resumed has the losses and weights of one that was not."""

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from peft import LoraConfig
from transformers import Qwen2_5_VLForConditionalGeneration, TrainerCallback

from .common import LOW_RANK, make_hybrid, parameters
from .grpo_common import make_dense, make_grpo, make_prompts
from .test_checkpoints import check_complete
from .test_grpo_trainable import THINKING_MLP


OPTIONS = {
    "max_steps": 8,
    "save_strategy": "steps",
    "save_steps": 2,
    "per_device_train_batch_size": 4,
    "num_generations": 4,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "linear",
    "epsilon": 0.01,  # so that old log-probabilities matter
}
COMPARED = ("loss", "grad_norm", "learning_rate", "reward", "entropy", "clip_ratio/region_mean", "num_tokens", "kl")
BLOCKS = {"steps of one block": {"steps_per_generation": 4}, "iterations": {"num_iterations": 2}, "plain": {}}
BLOCKS["both, accumulated"] = {"steps_per_generation": 2, "num_iterations": 2, "gradient_accumulation_steps": 2}


class Fall(TrainerCallback):
    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise RuntimeError("the machine is gone")


class Memory:
    """A reward that remembers the solutions of the prompts it was asked about: the order of the data."""

    __name__ = "memory"

    def __init__(self):
        self.asked = []

    def __call__(self, completion_ids, solution, **kwargs):
        self.asked.append(solution)
        return [float(sum(ids) % 3) for ids in completion_ids]


def logged(trainer) -> list[dict]:
    return [{name: logs.get(name) for name in COMPARED} for logs in trainer.state.log_history if "loss" in logs]


def make(folder, kind: str, seed: int = 0, callbacks=(), **options):
    model = make_dense(seed) if kind == "dense" else make_hybrid(seed, **(LOW_RANK if kind == "low-rank" else {}))
    trainer_options = {"callbacks": list(callbacks)}
    if kind == "peft":
        options |= {"rollout_branch": "thinking"}
        trainer_options["peft_config"] = LoraConfig(r=4, target_modules=THINKING_MLP)
    elif kind != "dense":
        options = {"rollout_branch": "both", **options}
    reward = Memory()
    prompts = make_prompts(5)
    prompts = prompts.to_iterable_dataset() if options.pop("streamed", False) else prompts
    trainer = make_grpo(folder, model, prompts, [reward], trainer_options=trainer_options, **{**OPTIONS, **options})
    trainer.memory = reward
    return trainer


def check_resumed(folder, kind: str, fall: int, **options):
    whole = make(folder / "whole", kind, **options)
    whole.train()
    cut = make(folder / "cut", kind, callbacks=[Fall(fall)], **options)
    with pytest.raises(RuntimeError, match="the machine is gone"):
        cut.train()
    # Another start than before: what counts must come from the checkpoint. An adapter's base model is not in it.
    resumed = make(folder / "cut", kind, seed=0 if kind == "peft" else 5, **options)
    resumed.train(resume_from_checkpoint=True)
    assert logged(resumed) == logged(whole) and len(logged(whole)) == 8
    for name, tensor in parameters(resumed.model).items():
        assert tensor.equal(parameters(whole.model)[name]), name
    again = len(cut.memory.asked) + len(resumed.memory.asked) - len(whole.memory.asked)
    asked = cut.memory.asked[: len(cut.memory.asked) - again] + resumed.memory.asked
    assert again >= 0 and asked == whole.memory.asked
    return whole


@pytest.mark.parametrize("fall", [5, 7])  # at the end of a block of four steps, and within one
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("kind", ["dense", "both"])
def test_resumed_equals_uninterrupted(tmp_path, kind, block, fall):
    # 5 prompts: a second epoch begins within the run, so that its order counts too.
    check_resumed(tmp_path, kind, fall, **BLOCKS[block])


@pytest.mark.parametrize("kind", ["peft", "low-rank"])
def test_other_kinds_resume(tmp_path, kind):
    check_resumed(tmp_path, kind, 7, **BLOCKS["both, accumulated"])


@pytest.mark.parametrize("objective", ["regret", "policy_gradient"])
def test_a_router_resumes(tmp_path, objective):
    options = {"rollout_branch": "router", "router_objective": objective, "trainable": "all"}
    block = {"steps_per_generation": 4} if objective == "regret" else {}
    check_resumed(tmp_path, "both", 6, **options, **block)


def test_dynamic_sampling_resumes(tmp_path):
    # Rewards in whole numbers from 0 to 2 are often the same for both completions of a prompt.
    options = {"dynamic_sampling_rounds": 2, "num_generations": 2, "steps_per_generation": 2}
    whole = check_resumed(tmp_path, "both", 8, **options)
    assert max(logs.get("dynamic_sampling/replaced", 0) for logs in whole.state.log_history) > 0


@pytest.mark.parametrize("block", [{}, {"steps_per_generation": 4}])
def test_streamed_prompts_resume(tmp_path, block):
    whole = check_resumed(tmp_path, "both", 5, streamed=True, **block)
    # Every answer of a group is to one prompt, and a stream is asked for more than the first prompts.
    for asked in whole.memory.asked:
        assert all(len(set(asked[start : start + 4])) == 1 for start in range(0, len(asked), 4))
    assert len({solution for asked in whole.memory.asked for solution in asked}) > 1


def test_a_stream_that_has_begun_anew(tmp_path):
    with pytest.raises(RuntimeError, match="the machine is gone"):
        make(tmp_path, "both", callbacks=[Fall(7)], streamed=True).train()
    message = "of step 6 is from a later pass over the streamed training dataset.*`ignore_data_skip=True`"
    with pytest.raises(ValueError, match=message):
        make(tmp_path, "both", streamed=True).train(resume_from_checkpoint=True)
    resumed = make(tmp_path, "both", streamed=True, ignore_data_skip=True)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 8


@pytest.fixture
def checkpoint(tmp_path):
    with pytest.raises(RuntimeError, match="the machine is gone"):
        make(tmp_path / "cut", "both", callbacks=[Fall(3)], steps_per_generation=4).train()
    return tmp_path / "cut" / "checkpoint-2"


def test_damaged_rollouts(tmp_path, checkpoint):
    file = checkpoint / "rollouts_0.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(
        ValueError, match="rollouts_0.safetensors cannot be read .*Resume from an earlier checkpoint, or"
    ):
        make(tmp_path / "cut", "both", steps_per_generation=4).train(resume_from_checkpoint=str(checkpoint))


def test_rollouts_of_another_run(tmp_path, checkpoint):
    with pytest.raises(
        ValueError, match="were made with .*steps_per_generation=4.*this run has .*steps_per_generation=2"
    ):
        make(tmp_path / "cut", "both", steps_per_generation=2).train(resume_from_checkpoint=str(checkpoint))


def test_missing_rollouts(tmp_path, checkpoint, caplog):
    (checkpoint / "rollouts_0.safetensors").unlink()
    trainer = make(tmp_path / "cut", "both", steps_per_generation=4)
    with caplog.at_level(logging.WARNING):
        trainer.train(resume_from_checkpoint=str(checkpoint))
    assert "rollouts_0.safetensors is missing" in caplog.text and trainer.state.global_step == 8


def test_rollouts_are_saved_only_where_they_are_needed(tmp_path):
    trainer = make(tmp_path, "both", steps_per_generation=4, max_steps=4, save_steps=1)
    trainer.train()
    sizes = [(tmp_path / f"checkpoint-{step}" / "rollouts_0.safetensors").stat().st_size for step in (1, 2, 3, 4)]
    assert min(sizes[:3]) > 1000 > sizes[3]
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("branch", ["thinking", "both", "router"])
def test_checkpoints_are_complete(tmp_path, branch):
    trainer = make(tmp_path, "both", rollout_branch=branch, max_steps=1, save_steps=1)
    trainer.train()
    trainer.save_model()
    for folder in (tmp_path / "checkpoint-1", tmp_path):
        check_complete(folder, trainer.model)
        text = ModelCard.load(folder / "README.md").text
        trained = "shared, thinking, non\\_thinking" if branch == "both" else branch
        assert "trained on rewards" in text and f"Trained on rewards: {trained}." in text


def test_a_dense_checkpoint_loads(tmp_path):
    trainer = make(tmp_path, "dense", max_steps=1, save_steps=1)
    trainer.train()
    loaded = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path / "checkpoint-1").state_dict()
    assert all(tensor.equal(loaded[name]) for name, tensor in trainer.model.state_dict().items())
    assert ModelCard.load(tmp_path / "README.md").data.tags.count("grpo") == 1


RUN = """
import json, sys, time
from transformers import TrainerCallback
from tests.trainers.test_grpo_resume import logged, make
class Slow(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        time.sleep(float(sys.argv[2]))
trainer = make(sys.argv[1], "both", callbacks=[Slow()], steps_per_generation=4, num_iterations=2)
trainer.train(resume_from_checkpoint=len(sys.argv) > 3)
print("LOGGED", json.dumps(logged(trainer)))
print("SUMS", json.dumps({name: p.double().sum().item() for name, p in trainer.model.named_parameters()}))
"""
ROOT = Path(__file__).parents[2]


def run(*arguments) -> list[str]:
    command = [sys.executable, "-c", RUN, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith(("LOGGED", "SUMS"))]


@pytest.mark.slow
def test_killed_process(tmp_path):
    whole = run(tmp_path / "whole", 0)
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, tmp_path / "cut", "1"], cwd=ROOT, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.time() + 120
    while not (tmp_path / "cut" / "checkpoint-2" / "rollouts_0.safetensors").exists():
        assert time.time() < deadline and process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert run(tmp_path / "cut", 0, "resume") == whole and len(whole) == 2
