"""Two processes on gloo train what one process trains, given the same answers."""

import pytest
import torch

from tests.torchrun import on_two_ranks

from .grpo_common import make_dense, make_hybrid
from .grpo_two_ranks import RUNS, sharded_gradients, trained


METRICS = (
    "loss", "reward", "reward_std", "frac_reward_zero_std", "num_tokens", "entropy", "router_loss", "router_gain",
    "thinking_ratio", "reward_thinking", "reward_non_thinking", "length_thinking", "length_non_thinking",
    "clip_ratio/region_mean", "dynamic_sampling/replaced", "dynamic_sampling/without_signal",
)  # fmt: skip


def run(mode: str, folder):
    on_two_ranks("tests.trainers.grpo_two_ranks", mode, str(folder / "result.pt"))
    return torch.load(folder / "result.pt", weights_only=True)


@pytest.fixture(scope="module")
def on_both(tmp_path_factory):
    return run("ddp", tmp_path_factory.mktemp("ddp"))


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_data_parallel_equals_one_process(on_both, name):
    found, alone = on_both[name], trained(name, ranks=1)
    before = (make_hybrid() if "rollout_branch" in RUNS[name] else make_dense())[0].state_dict()
    moved = [not tensor.equal(before[parameter]) for parameter, tensor in alone["weights"].items()]
    assert sum(moved) > 0.4 * len(moved)  # without the vision tower, where all prompts are text
    for parameter, tensor in alone["weights"].items():
        torch.testing.assert_close(found["weights"][parameter], tensor, atol=1e-5, rtol=0, msg=parameter)
    assert found["asked"] == alone["asked"]
    assert found["advantages"] == pytest.approx(alone["advantages"], abs=1e-5)
    for step, step_alone in zip(found["logs"], alone["logs"], strict=True):
        # An odd group is shared out among two ranks together with another one, which one process need not ask.
        for metric in set(METRICS) - ({"num_tokens"} if RUNS[name].get("num_generations") == 3 else set()):
            assert step.get(metric) == pytest.approx(step_alone.get(metric), abs=1e-5), metric
    if "sampling" in name:
        assert 0 < max(step["dynamic_sampling/replaced"] for step in alone["logs"])


@pytest.mark.slow
def test_sharded_ranks_on_different_branches(tmp_path):
    found, alone = run("fsdp", tmp_path), sharded_gradients(ranks=1)
    for name, gradient in alone.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=0, msg=name)
        assert gradient.abs().max() > 1e-4, name  # and not of rounding alone
