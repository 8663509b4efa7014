"""What a run on rewards promises to train trains, all of it; the rest stays as it is to the last bit."""

import pytest
from peft import LoraConfig, get_peft_model

from .common import LOW_RANK, make_hybrid, moved_groups, parameters
from .grpo_common import make_grpo
from .test_optimizer import rates as rates_of
from .test_trainable import GROUPS


KINDS = {"ffn": {}, "ffn from layer 0": {"router_layer": 0}, "lora": LOW_RANK}
PROMISED = [
    ({"rollout_branch": "thinking"}, {"thinking"}),
    ({"rollout_branch": "non_thinking"}, {"non_thinking"}),
    ({"rollout_branch": "thinking", "trainable": "all"}, {"shared", "thinking"}),
    ({"rollout_branch": "both"}, {"shared", "thinking", "non_thinking"}),
    ({"rollout_branch": "both", "trainable": "branches"}, {"thinking", "non_thinking"}),
    ({"rollout_branch": "both", "trainable": "non_thinking"}, {"non_thinking"}),
    ({"rollout_branch": "router"}, {"router"}),
    ({"rollout_branch": "router", "trainable": "branches"}, {"thinking", "non_thinking", "router"}),
    ({"rollout_branch": "router", "trainable": "all"}, GROUPS),
    ({"rollout_branch": "router", "router_objective": "policy_gradient"}, {"router"}),
    ({"rollout_branch": "router", "router_objective": "policy_gradient", "trainable": "all"}, GROUPS),
]
THINKING_MLP = r".*language_model\.layers\.\d+\.mlp\.thinking\.(gate|up|down)_proj"
ATTENTION = r".*language_model\.layers\.\d+\.self_attn\.q_proj"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("options", "promised"), PROMISED, ids=["-".join(options.values()) for options, _ in PROMISED])
def test_exactly_the_promised_groups_move(tmp_path, kind, options, promised):
    # Weight decay moves whatever the optimizer holds, with or without a gradient.
    trainer = make_grpo(tmp_path, make_hybrid(**KINDS[kind]), max_steps=2, weight_decay=0.1, **options)
    before = parameters(trainer.model)
    trainer.train()
    assert moved_groups(before, trainer.model) == {group: {group in promised} for group in GROUPS}


def test_all_of_a_dense_model_moves(tmp_path):
    trainer = make_grpo(tmp_path, max_steps=2)
    before = parameters(trainer.model)
    trainer.train()
    assert moved_groups(before, trainer.model) == {"shared": {True}}


def test_rewards_that_are_all_the_same_move_nothing(tmp_path):
    trainer = make_grpo(tmp_path, rewards=[lambda completions, **kwargs: [1.0] * len(completions)])
    before = parameters(trainer.model)
    trainer.train()
    assert moved_groups(before, trainer.model) == {"shared": {False}}


def test_learning_rates(tmp_path):
    rates = {"learning_rate": 1e-4, "branch_learning_rate": 2e-4, "router_learning_rate": 3e-3}
    trainer = make_grpo(tmp_path, rollout_branch="router", trainable="all", **rates)
    trainer.create_optimizer()
    assert rates_of(trainer) == {"shared": {1e-4}, "thinking": {2e-4}, "non_thinking": {2e-4}, "router": {3e-3}}


def moved_by_adapters(folder, adapter: LoraConfig, **options) -> set[str]:
    trainer = make_grpo(folder, trainer_options={"peft_config": adapter}, max_steps=3, **options)
    before = parameters(trainer.model)
    trainer.train()
    return {name for name, tensor in parameters(trainer.model).items() if not tensor.equal(before[name])}


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_an_adapter_of_the_branch(tmp_path, beta):
    moved = moved_by_adapters(
        tmp_path, LoraConfig(r=4, target_modules=THINKING_MLP), rollout_branch="thinking", beta=beta
    )
    assert len(moved) == 2 * 3 and all(".mlp.thinking." in name and ".lora_" in name for name in moved)


def test_the_router_through_peft(tmp_path):
    adapter = LoraConfig(r=4, target_modules=THINKING_MLP, modules_to_save=["router"])
    for objective in ("regret", "policy_gradient"):
        moved = moved_by_adapters(tmp_path, adapter, rollout_branch="router", router_objective=objective)
        assert moved and all(".router.modules_to_save." in name for name in moved)


def test_an_adapter_elsewhere_has_nothing_to_learn(tmp_path):
    with pytest.raises(
        ValueError, match="`rollout_branch='thinking'` trains .* in which no parameter is left to train"
    ):
        moved_by_adapters(tmp_path, LoraConfig(target_modules=ATTENTION), rollout_branch="thinking")


def test_adapters_that_stay_as_they_are_are_named(tmp_path, caplog):
    adapter = LoraConfig(r=4, target_modules=f"{THINKING_MLP}|{ATTENTION}")
    moved = moved_by_adapters(tmp_path, adapter, rollout_branch="thinking")
    assert moved and all(".mlp.thinking." in name for name in moved)
    (message,) = [record.getMessage() for record in caplog.records if "parameters of adapters" in record.getMessage()]
    assert "(of shared; the first is base_model.model." in message
    assert "`rollout_branch='thinking'` only trains thinking" in message

    caplog.clear()
    moved = moved_by_adapters(tmp_path, adapter, rollout_branch="both")
    assert any(".self_attn." in name for name in moved) and "parameters of adapters" not in caplog.text
    # `trainable` says of a model that has adapters already what trains; no rollout of one branch teaches the other.
    model, processor = make_hybrid()
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=r".*\.mlp\.(non_)?thinking\.up_proj"))
    make_grpo(tmp_path, (adapted, processor), rollout_branch="thinking", trainable="all")
    assert "(of non_thinking; the first is" in caplog.text


def test_a_model_that_has_adapters_already(tmp_path):
    model, processor = make_hybrid()
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=THINKING_MLP))
    trainer = make_grpo(tmp_path, (adapted, processor), rollout_branch="thinking", max_steps=2)
    before = parameters(trainer.model)
    trainer.train()
    moved = {name for name, tensor in parameters(trainer.model).items() if not tensor.equal(before[name])}
    assert len(moved) == 6 and all(".lora_" in name for name in moved)
