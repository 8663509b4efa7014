"""What a group of completions says, as pure functions and as it reaches the loss and the log."""

import pandas
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_metis_home.trainers.advantages import alternating, branch_advantages, router_advantages, router_gain

from .common import make_hybrid
from .grpo_common import first_batch, likes_thinking, make_grpo, make_prompts, parity


SCALES = ("group", "batch", "none")
rewards_of_groups = st.tuples(st.integers(1, 4), st.sampled_from([4, 6, 8])).flatmap(
    lambda shape: st.tuples(
        st.lists(st.integers(-8, 8).map(float), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]).map(
            torch.tensor
        ),
        st.just(shape[1]),
    )
)


@given(st.integers(1, 12), st.integers(0, 24), st.sampled_from([2, 4, 6]))
def test_branches_take_turns_wherever_a_rank_begins(count, start, size):
    assert alternating(count, start, size).tolist() == [(i % size) % 2 == 0 for i in range(start, start + count)]


def test_by_hand():
    rewards = torch.tensor([1.0, 5.0, 3.0, 5.0, 0.0, 0.0, 0.0, 8.0])  # thinking, not, thinking, not, ...
    expected = torch.tensor([-1.0, 0.0, 1.0, 0.0, 0.0, -4.0, 0.0, 4.0])
    assert branch_advantages(rewards, 4, "none").equal(expected)
    std = torch.tensor([2**0.5, 1e9, 2**0.5, 1e9, 1e9, 32**0.5, 1e9, 32**0.5])
    torch.testing.assert_close(branch_advantages(rewards, 4, "group"), expected / (std + 1e-4))
    torch.testing.assert_close(branch_advantages(rewards, 4, "batch"), expected / (rewards.std() + 1e-4))
    assert router_gain(rewards, 4).tolist() == [-3.0] * 4 + [-4.0] * 4
    assert router_advantages(torch.tensor([0.0, 1.0, 0.0, 2.0]), 2).tolist() == [-1.0, 1.0, -2.0, 2.0]
    # leave one out: 1 - (2 + 6) / 2, 2 - (1 + 6) / 2, 6 - (1 + 2) / 2
    torch.testing.assert_close(router_advantages(torch.tensor([1.0, 2.0, 6.0]), 3), torch.tensor([-3.0, -1.5, 4.5]))


@given(rewards_of_groups, st.sampled_from(SCALES), st.integers(-50, 50), st.sampled_from([0.5, 2.0, 4.0]))
@settings(max_examples=60, deadline=None)
def test_shifts_change_nothing_and_scales_what_they_should(given_rewards, scale, shift, factor):
    rewards, size = given_rewards
    found = branch_advantages(rewards, size, scale)
    halves = found.view(-1, size // 2, 2)
    torch.testing.assert_close(halves.sum(dim=1), torch.zeros(len(halves), 2), atol=1e-4, rtol=0)
    assert found[0::2].equal(branch_advantages(_with_other_half(rewards), size, scale)[0::2]) or scale == "batch"
    torch.testing.assert_close(branch_advantages(rewards + shift, size, scale), found, atol=1e-4, rtol=1e-4)
    scaled = branch_advantages(rewards * factor, size, scale)
    torch.testing.assert_close(scaled, found * factor if scale == "none" else found, atol=1e-2, rtol=1e-2)
    for function in (router_gain, router_advantages):
        torch.testing.assert_close(function(rewards + shift, size), function(rewards, size), atol=1e-4, rtol=0)
        torch.testing.assert_close(function(rewards * factor, size), function(rewards, size) * factor)
    torch.testing.assert_close(
        router_advantages(rewards, size).view(-1, size).sum(dim=1), torch.zeros(len(rewards) // size), atol=1e-4, rtol=0
    )


def _with_other_half(rewards):
    """The same rewards of the thinking branch, others of the non-thinking one."""
    changed = rewards.clone()
    changed[1::2] = torch.arange(len(changed[1::2])).float()
    return changed


def advantages_of(folder, **options) -> tuple[torch.Tensor, torch.Tensor, dict]:
    """Rewards and advantages as the trainer logs them, in the order of generation, and what the loss gets."""
    trainer = make_grpo(folder, per_device_train_batch_size=16, **options)
    batch = first_batch(trainer)
    rewards = torch.tensor(list(trainer._logs["rewards"]["parity"]))
    return rewards, torch.tensor(list(trainer._logs["advantages"])), batch


@pytest.mark.parametrize("scale", SCALES)
def test_are_trls_on_each_branch_alone(tmp_path, scale):
    rewards, of_prompt, batch = advantages_of(tmp_path, rollout_branch="both", scale_rewards=scale)
    assert sorted(of_prompt.tolist()) == sorted(batch["advantages"].tolist())
    # TRL's own advantages of groups of two, which are fed one branch's rewards, are ours of groups of four.
    values = iter(rewards.view(-1, 2, 2).transpose(1, 2).flatten().tolist())

    def replay(completions, **kwargs):
        return [next(values) for _ in completions]

    replay.__name__ = "parity"
    _, of_branch, _ = advantages_of(tmp_path, rewards=[replay], num_generations=2, scale_rewards=scale)
    expected = of_branch.view(-1, 2, 2).transpose(1, 2).flatten()
    torch.testing.assert_close(branch_advantages(rewards, 4, scale), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(of_prompt, expected)


def test_reach_the_loss_and_the_log(tmp_path):
    def better_thinking(completion_ids, thinking, **kwargs):
        return [value + 100 * mode for value, mode in zip(parity(completion_ids), thinking, strict=True)]

    options = {"rollout_branch": "both", "advantage_group": "branch", "scale_rewards": "none", "log_completions": True}
    trainer = make_grpo(tmp_path, rewards=[better_thinking], per_device_train_batch_size=16, **options)
    batch = first_batch(trainer)
    rewards = torch.tensor(list(trainer._logs["rewards"]["better_thinking"]))
    expected = branch_advantages(rewards, 4, "none")
    assert expected.abs().max() < 3 and expected.any()  # a branch is not pushed for being the better one
    assert sorted(batch["advantages"].tolist()) == sorted(expected.tolist())
    assert list(trainer._logs["advantages"]) == expected.tolist()
    trainer.compute_loss(trainer.model, batch)
    trainer.log({})
    (file,) = (tmp_path / "completions").iterdir()
    assert pandas.read_parquet(file)["advantage"].tolist() == expected.tolist()


def test_a_branch_is_not_trained_away_for_being_weaker(tmp_path):
    # All that a reward likes is the branch, which no branch can do anything about.
    def gradients(group):
        trainer = make_grpo(
            tmp_path, make_hybrid(), make_prompts(), [likes_thinking], rollout_branch="both", advantage_group=group
        )  # fmt: skip
        trainer.compute_loss(trainer.model, first_batch(trainer)).backward()
        return any(p.grad.abs().max() > 1e-7 for p in trainer.model.parameters() if p.grad is not None)

    assert gradients("prompt") and not gradients("branch")
