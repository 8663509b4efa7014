"""Prompts that teach nothing are replaced by prompts that do, as far as the rounds go; off, nothing is different."""

import pandas
import pytest
import torch

from hf_metis_home.trainers.dynamic_sampling import _draw_rows

from .common import parameters
from .grpo_common import first_batch, likes_thinking, make_grpo, make_prompts


class Varied:
    """Only some prompts have answers of unlike rewards. Remembers what it was asked."""

    __name__ = "varied"

    def __init__(self, useful=("1", "4")):
        self.useful, self.asked = useful, []

    def __call__(self, completion_ids, solution, log_extra=None, log_metric=None, **kwargs):
        self.asked.append(list(solution))
        if log_extra is not None:
            log_extra("asked", list(solution))
            log_metric("share", sum(s in self.useful for s in solution) / len(solution))
        places = range(len(solution))
        return [float(place % 4 < 2) * (one in self.useful) for place, one in zip(places, solution, strict=True)]


def make(folder, reward, rounds: int, dataset=None, **options):
    options = {"per_device_train_batch_size": 16, "rollout_branch": "thinking", "log_completions": True, **options}
    dataset = make_prompts(8) if dataset is None else dataset
    return make_grpo(folder, None, dataset, [reward], dynamic_sampling_rounds=rounds, **options)


def test_what_is_trained_on_has_signal(tmp_path):
    reward = Varied()
    trainer = make(tmp_path, reward, rounds=8)
    trainer._metrics["train"]["of an earlier step"].append(1.0)
    batch = first_batch(trainer)
    *_, last = reward.asked  # the scoring of what was kept
    assert len(last) == 16 and set(last) <= set(reward.useful)
    assert all(len(set(last[i : i + 4])) == 1 for i in range(0, 16, 4))  # groups are of one prompt each
    assert (batch["advantages"] != 0).all()
    metrics = trainer._metrics["train"]
    without = sum(not set(reward.asked[0][i : i + 4]) <= set(reward.useful) for i in range(0, 16, 4))
    assert metrics["dynamic_sampling/replaced"] == [without / 4] != [0.0]
    assert metrics["dynamic_sampling/without_signal"] == [0.0]
    assert metrics["frac_reward_zero_std"] == [0.0]
    # Rollouts that were thrown away are in no figure but the number of tokens.
    assert metrics["of an earlier step"] == [1.0] and all(len(values) == 1 for values in metrics.values())


@pytest.mark.parametrize("rounds", [1, 3])
def test_rounds_are_bounded(tmp_path, rounds):
    reward = Varied(useful=())
    trainer = make(tmp_path, reward, rounds)
    first_batch(trainer)
    assert len(reward.asked) == 1 + rounds + 1
    assert trainer._metrics["train"]["dynamic_sampling/without_signal"] == [1.0]
    assert trainer._metrics["train"]["dynamic_sampling/replaced"] == [0.0]
    assert reward.asked[-1] == reward.asked[0]
    drawn = {tuple(asked) for asked in reward.asked[1:-1]}
    assert len(drawn) == rounds  # each round asks others


def test_rounds_and_steps_draw_unlike_prompts(tmp_path):
    trainer = make(tmp_path, Varied(), 1, make_prompts(30))
    drawn = set()
    for trainer.state.global_step, trainer._step in ((0, 0), (12345, 0), (12345, 50000), (12345, 50004)):
        drawn |= {tuple(_draw_rows(trainer, 4, round_number)) for round_number in range(3)}
    assert len(drawn) == 12 and all(len(set(rows)) == 4 for rows in drawn)


def test_off_and_not_needed_are_the_same(tmp_path):
    results = []
    for rounds in (0, 5):
        reward = Varied(useful=tuple("0123456789"))
        trainer = make(tmp_path / str(rounds), reward, rounds, max_steps=3)
        trainer.train()
        results.append((trainer.state.log_history, parameters(trainer.model), len(reward.asked)))
    (off, off_weights, off_calls), (on, on_weights, on_calls) = results
    assert (off_calls, on_calls) == (3, 6)
    assert all(tensor.equal(on_weights[name]) for name, tensor in off_weights.items())
    for step, step_on in zip(off[:3], on[:3], strict=True):
        extra = {"dynamic_sampling/replaced", "dynamic_sampling/without_signal"}
        assert step_on.keys() - step.keys() == extra
        for name in step.keys() - {"step_time"}:
            assert step_on[name] == step[name], name


def test_all_tokens_are_counted_once(tmp_path):
    reward = Varied()
    trainer = make(tmp_path, reward, 8)
    lengths, original = [], type(trainer)._generate_single_turn

    def keep(self, prompt_ids, *args, **kwargs):
        generated = original(self, prompt_ids, *args, **kwargs)
        if self._completions is None:
            lengths.extend(len(a) + len(b) for a, b in zip(prompt_ids, generated[0], strict=True))
        return generated

    trainer._generate_single_turn = keep.__get__(trainer)
    first_batch(trainer)
    assert len(lengths) == sum(map(len, reward.asked[:-1])) > 16
    assert trainer.state.num_input_tokens_seen == sum(lengths)
    assert trainer._metrics["train"]["num_tokens"] == [sum(lengths)]


def test_the_log_has_what_was_trained_on(tmp_path):
    reward = Varied()
    trainer = make(tmp_path, reward, 8)
    trainer.compute_loss(trainer.model, first_batch(trainer))
    assert trainer._metrics["train"]["share"] == [1.0]
    trainer.log({})
    (file,) = (tmp_path / "completions").iterdir()
    table = pandas.read_parquet(file)
    assert len(table) == 16 and table["asked"].tolist() == reward.asked[-1]


@pytest.mark.parametrize(
    ("options", "teaches"),
    [
        ({"rollout_branch": "both"}, True),
        ({"rollout_branch": "both", "advantage_group": "branch"}, False),
        ({"rollout_branch": "router"}, True),
        ({"rollout_branch": "router", "token_cost": 1.0, "max_completion_length": 1}, True),
        ({"rollout_branch": "thinking"}, False),
        ({"rollout_branch": "both", "mask_truncated_completions": True, "max_completion_length": 1}, False),
        ({"rollout_branch": "router", "mask_truncated_completions": True, "max_completion_length": 1}, True),
    ],
)
def test_what_counts_as_signal(tmp_path, options, teaches):
    # All that differs is the branch, so a branch alone, or compared with itself, has nothing to learn.
    trainer = make(tmp_path, likes_thinking, 1, **options)
    batch = first_batch(trainer)
    assert trainer._metrics["train"]["dynamic_sampling/without_signal"] == [0.0 if teaches else 1.0]
    trainer.compute_loss(trainer.model, batch).backward()
    largest = max(p.grad.abs().max().item() for p in trainer.model.parameters() if p.grad is not None)
    assert (largest > 1e-6) == teaches


def test_a_group_that_only_the_branches_learn_from_is_kept(tmp_path):
    # Both branches earn the same on average: the router has no preference, the branches have something to learn.
    def halves(completions, **kwargs):
        return [float(place % 4 < 2) for place in range(len(completions))]

    for trainable, without in ((None, 1.0), ("all", 0.0)):
        trainer = make(tmp_path, halves, 1, rollout_branch="router", trainable=trainable)
        first_batch(trainer)
        assert trainer._metrics["train"]["dynamic_sampling/without_signal"] == [without]


def test_replaced_groups_keep_their_branches(tmp_path):
    reward = Varied()
    trainer = make(tmp_path, reward, 8, rollout_branch="both")
    seen, original = [], type(trainer)._calculate_rewards

    def keep(self, *args):
        seen.append(self._thinking.tolist())
        return original(self, *args)

    trainer._calculate_rewards = keep.__get__(trainer)
    batch = first_batch(trainer)
    assert seen[-1] == [True, False] * 8 and batch["thinking"].sum() == 8
    assert torch.equal(batch["thinking"].sort().values, torch.tensor(seen[-1]).sort().values)
