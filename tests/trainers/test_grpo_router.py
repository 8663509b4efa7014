"""A router that learns from outcomes: towards the branch that earns more, less what it costs."""

import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard

from .common import make_hybrid, moved_groups, parameters
from .grpo_common import first_batch, likes_thinking, make_grpo, make_prompts


OBJECTIVES = ("regret", "policy_gradient")


def dislikes_thinking(thinking, **kwargs) -> list[float]:
    return [1.0 - value for value in thinking]


def lazy(completions, **kwargs) -> list[float]:
    return [0.0] * len(completions)


def undecided_hybrid():
    """A router that sends some prompts to one branch, some to the other, and is not sure."""
    model, processor = make_hybrid()
    score = model.model.language_model.router.score
    with torch.no_grad():
        score.weight *= 10  # queries that have learned nothing see hardly a difference between prompts
        score.bias += torch.tensor([2.65, -2.65])
    return model, processor


def probabilities(trainer) -> torch.Tensor:
    rows = list(trainer.train_dataset)
    prompts = [
        [{"role": "user", "content": [*({"type": "image", "image": image} for image in row["images"]),
                                      {"type": "text", "text": row["prompt"][0]["content"]}]}] for row in rows
    ]  # fmt: skip
    trainer.model.eval()
    inputs = trainer.processing_class.apply_chat_template(
        prompts,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True},
    )
    return trainer.plain_model.route(**inputs).thinking_probability


def mean(trainer, name: str) -> list[float]:
    return [logs[name] for logs in trainer.state.log_history if name in logs]


def test_asks_a_router_that_fsdp2_has_spread(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        trainer = make_grpo(tmp_path, rollout_branch="router", router_objective="policy_gradient")
        prompts = [[5, 6, 7, 8], [9, 10]]
        expected, model = trainer._thinking_probability(prompts, {}), trainer.model
        for layer in (*model.model.visual.blocks, *model.model.language_model.layers, model):
            fully_shard(layer, mesh=dist.init_device_mesh("cpu", (1,)))
        for _ in range(2):
            torch.testing.assert_close(trainer._thinking_probability(prompts, {}), expected)
        model(input_ids=torch.tensor(prompts[:1]), thinking=True)  # the root is still the root
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(("reward", "sign"), [(likes_thinking, 1), (dislikes_thinking, -1)])
def test_moves_towards_the_better_branch(tmp_path, objective, reward, sign):
    options = {"rollout_branch": "router", "router_objective": objective, "max_steps": 6}
    trainer = make_grpo(tmp_path, undecided_hybrid(), rewards=[reward], router_learning_rate=5e-2, **options)
    before, weights = probabilities(trainer), parameters(trainer.model)
    trainer.train()
    after = probabilities(trainer)
    assert (sign * (after - before) > 0.05).all() and (sign * (after - 0.5) > 0).all()
    assert (before > 0.5).any() and (before < 0.5).any()
    assert moved_groups(weights, trainer.model)["router"] == {True}
    if objective == "regret":
        assert mean(trainer, "router_gain") == [sign] * 6
        assert mean(trainer, "thinking_ratio")[-1] == (sign > 0)


@pytest.mark.parametrize(("cost", "sign"), [(0.0, 1), (0.1, 1), (0.5, -1)])
def test_tokens_cost(tmp_path, cost, sign):
    # Thinking earns 1, and all of its answers are 4 tokens longer.
    model, processor = make_hybrid()
    lengths = {True: 6, False: 2}
    trainer = make_grpo(
        tmp_path, (model, processor), rewards=[likes_thinking], rollout_branch="router", token_cost=cost
    )  # fmt: skip
    original = type(trainer)._generate_single_turn

    def shortened(self, *args, **kwargs):
        ids, logprobs = original(self, *args, **kwargs)
        ids = [(row * 6)[: lengths[thinking]] for row, thinking in zip(ids, self._thinking.tolist(), strict=True)]
        return ids, logprobs

    trainer._generate_single_turn = shortened.__get__(trainer)
    batch = first_batch(trainer)
    torch.testing.assert_close(batch["router_target"], torch.full((8,), 1 - 4 * cost))
    assert (batch["router_target"].sign() == sign).all()
    # What the policy is told stays what it was: rewards without cost.
    assert ((batch["advantages"] > 0) == batch["thinking"]).all()
    metrics = trainer._metrics["train"]
    assert metrics["length_thinking"] == [6.0] and metrics["length_non_thinking"] == [2.0]
    assert metrics["router_gain"] == [pytest.approx(1 - 4 * cost)]


@pytest.mark.parametrize("coef", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_loss_and_metrics_by_hand(tmp_path, objective, coef):
    def reward(completion_ids, thinking, **kwargs):
        return [0.25 * mode + ids[0] % 3 for ids, mode in zip(completion_ids, thinking, strict=True)]

    options = {"rollout_branch": "router", "router_objective": objective, "router_loss_coef": coef}
    options |= {"per_device_train_batch_size": 24, "shuffle_dataset": False}
    trainer = make_grpo(tmp_path, undecided_hybrid(), make_prompts(6), [reward], **options)
    trainer.model.config.thinking_threshold = 0.72
    batch = first_batch(trainer)
    probability = probabilities(trainer)
    ratio = (probability >= 0.72).float().mean().item()
    assert 0 < ratio < (probability >= 0.5).float().mean() < 1

    # By hand, in the order of generation, before TRL's shuffle.
    rewards = torch.tensor(list(trainer._logs["rewards"]["reward"])).view(6, 4)
    p, thinking = probability[:, None], trainer._thinking.view(6, 4)
    if objective == "regret":
        gain = rewards[:, ::2].mean(dim=1) - rewards[:, 1::2].mean(dim=1)
        by_hand = (gain.abs() * -torch.where(gain > 0, p[:, 0], 1 - p[:, 0]).log()).mean()
        assert trainer._metrics["train"]["router_gain"] == [pytest.approx(gain.mean().item(), abs=1e-6)]
        assert (gain > 0).any() and (gain < 0).any()
    else:
        others = (rewards.sum(dim=1, keepdim=True) - rewards) / 3
        by_hand = -((rewards - others) * torch.where(thinking, p, 1 - p).log()).mean()
    trainer.model.train()
    total = trainer.compute_loss(trainer.model, batch)
    metrics = trainer._metrics["train"]
    assert metrics["router_loss"] == [pytest.approx(by_hand.item(), abs=1e-5)]
    assert metrics["thinking_ratio"] == [pytest.approx(ratio)]
    assert metrics["reward_thinking"] == [pytest.approx(rewards[thinking].mean().item())]
    assert metrics["reward_non_thinking"] == [pytest.approx(rewards[~thinking].mean().item())]
    assert "aux_loss" not in metrics
    # Importance ratios are 1 on policy, so the policy's part is minus the mean advantage, which is 0.
    assert total.item() == pytest.approx(coef * by_hand.item(), abs=1e-5)


def test_policy_gradient_draws_branches_as_often_as_the_router_says(tmp_path):
    options = {"rollout_branch": "router", "router_objective": "policy_gradient", "max_completion_length": 1}
    trainer = make_grpo(
        tmp_path, undecided_hybrid(), make_prompts(3), per_device_train_batch_size=600, num_generations=200, **options
    )  # fmt: skip
    expected = probabilities(trainer)
    batch = first_batch(trainer)
    images = torch.tensor(batch["num_images"])
    for index, number in enumerate((1, 0, 2)):
        share = batch["thinking"][images == number].float().mean()
        assert share == pytest.approx(expected[index].item(), abs=0.12)
    assert expected.max() - expected.min() > 0.3  # so that shares of another prompt, or of one half, would not do


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_router_with_nothing_to_learn_stays(tmp_path, objective):
    trainer = make_grpo(tmp_path, rewards=[lazy], rollout_branch="router", router_objective=objective)
    before = parameters(trainer.model)
    trainer.train()
    moved = moved_groups(before, trainer.model)
    assert moved == dict.fromkeys(moved, {False})


def test_branches_and_router_learn_together(tmp_path):
    options = {"rollout_branch": "router", "trainable": "all", "max_steps": 8, "router_learning_rate": 3e-2}
    trainer = make_grpo(tmp_path, rewards=[likes_thinking], **options)
    before = parameters(trainer.model)
    trainer.train()
    assert set(map(frozenset, moved_groups(before, trainer.model).values())) == {frozenset({True})}
    assert mean(trainer, "thinking_ratio")[-1] == 1.0
    evaluated = {name for name in trainer.evaluate(make_prompts(2)) if "router" in name or "thinking" in name}
    assert {"eval_router_loss", "eval_router_gain", "eval_thinking_ratio", "eval_reward_thinking"} <= evaluated
