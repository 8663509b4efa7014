"""What `trainable` promises to train trains, all of it; the rest stays as it is to the last bit."""

import pytest
import torch

from hf_metis_home.trainers.parameter_groups import count_trainable, describe_trainable, group_of

from .common import LOW_RANK, make_dataset, make_hybrid, make_trainer, moved_groups, parameters
from .grpo_common import make_grpo


GROUPS = {"shared", "thinking", "non_thinking", "router"}
KINDS = {"ffn": {}, "lora": LOW_RANK}
PROMISED = [
    ("all", None, {"shared", "thinking", "non_thinking", "router"}),
    ("all", False, {"shared", "thinking", "non_thinking"}),
    ("branches", None, {"thinking", "non_thinking", "router"}),
    ("branches", False, {"thinking", "non_thinking"}),
    ("router", None, {"router"}),
    ("thinking", None, {"thinking"}),
    ("thinking", True, {"thinking", "router"}),
    ("non_thinking", None, {"non_thinking"}),
    ("non_thinking", True, {"non_thinking", "router"}),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("trainable", "train_router", "promised"), PROMISED)
def test_exactly_the_promised_groups_move(tmp_path, kind, trainable, train_router, promised):
    model = make_hybrid(**KINDS[kind])
    # Weight decay moves whatever the optimizer holds, with or without a gradient.
    options = {"trainable": trainable, "train_router": train_router, "weight_decay": 0.1}
    trainer = make_trainer(tmp_path, model=model, max_steps=3, **options)
    before = parameters(trainer.model)
    trainer.train()
    assert moved_groups(before, trainer.model) == {group: {group in promised} for group in GROUPS}
    counts = count_trainable(trainer.model)
    assert {group for group, (trained, _) in counts.items() if trained} == promised
    assert all(trained in (0, total) for trained, total in counts.values())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("images", [(1, 0, 2), (0,)])
def test_every_tensor_gets_a_gradient(tmp_path, images, kind):
    model = make_hybrid(**KINDS[kind])
    trainer = make_trainer(tmp_path, make_dataset(images=images), model=model, per_device_train_batch_size=8)
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    trainer.compute_loss(trainer.model.train(), batch).backward()
    without = {name for name, p in trainer.model.named_parameters() if p.grad is None or not p.grad.any()}
    blind = {name for name in parameters(trainer.model) if ".visual." in name}
    assert without == (blind if images == (0,) else set())


@pytest.mark.parametrize("pooling", ["mean", "modality_mean", "attention"])
def test_an_upcycled_router_leaves_its_zero_start(tmp_path, pooling):
    from hf_metis_home.conversion import upcycle
    from tests.fixtures_text import tiny_word_level

    dense, processor = tiny_word_level()
    model = upcycle(dense, processor, router_layer=1, router_hidden_size=8, router_pooling=pooling)
    # The scores start at zero, so what is below them gets a gradient from the second step on.
    trainer = make_trainer(tmp_path, model=(model, processor), trainable="router", max_steps=3)
    before = parameters(model)
    trainer.train()
    assert moved_groups(before, model)["router"] == {True}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("mode", "idle"), [(True, "non_thinking"), (False, "thinking")])
def test_rows_of_one_mode_give_the_other_branch_a_gradient_of_zero(tmp_path, mode, idle, kind):
    trainer = make_trainer(tmp_path, make_dataset((mode,) * 4), model=make_hybrid(**KINDS[kind]))
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    trainer.compute_loss(trainer.model.train(), batch).backward()
    for name, parameter in trainer.model.named_parameters():
        if group_of(name) in ("thinking", "non_thinking"):
            assert parameter.grad is not None
            assert parameter.grad.any() == (group_of(name) != idle)


def test_says_what_trains(tmp_path, capsys):
    trainer = make_trainer(tmp_path, trainable="thinking")
    trainer.train()
    printed = capsys.readouterr().out
    counts = count_trainable(trainer.model)
    assert f"shared                     0 of {counts['shared'][1]:,}" in printed
    assert f"thinking               {counts['thinking'][0]:,} of {counts['thinking'][1]:,}" in printed


@pytest.mark.parametrize("make", [make_trainer, lambda *args, **kw: make_grpo(*args, rollout_branch="both", **kw)])
def test_counts_what_zero_3_has_spread_over_processes(tmp_path, make):
    model = make_hybrid()
    whole, text = count_trainable(model[0]), describe_trainable(model[0])
    for parameter in model[0].parameters():  # what DeepSpeed leaves of a parameter that is loaded under `zero.Init`
        parameter.ds_numel = parameter.numel()
        parameter.data = torch.empty(0)
    trainer = make(tmp_path, model=model)
    assert {group: total for group, (_, total) in count_trainable(trainer.model).items()} == {
        group: total for group, (_, total) in whole.items()
    }
    assert describe_trainable(model[0]).count(" of ") == text.count(" of ") == 4


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("model.language_model.layers.1.mlp.thinking.gate_proj.weight", "thinking"),
        ("model.language_model.layers.1.mlp.non_thinking.up_proj.weight", "non_thinking"),
        ("base_model.model.model.language_model.layers.1.mlp.thinking.gate_proj.lora_A.default.weight", "thinking"),
        ("base_model.model.model.language_model.router.modules_to_save.default.score.bias", "router"),
        ("model.language_model.layers.0.mlp.gate_proj.weight", "shared"),
        ("model.visual.blocks.0.mlp.gate_proj.weight", "shared"),
        ("lm_head.weight", "shared"),
        ("model.language_model.layers.1.self_attn.thinking.q_proj.lora_A.weight", "thinking"),
        ("model.language_model.layers.1.mlp.non_thinking.up_proj.lora_B.weight", "non_thinking"),
        ("model.language_model.layers.1.self_attn.q_proj.weight", "shared"),
    ],
)
def test_groups_go_by_name(name, group):
    assert group_of(name) == group
