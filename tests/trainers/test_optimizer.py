"""The router has a learning rate of its own, and nothing else about its optimisation differs."""

import pytest
import torch

from hf_metis_home.trainers.parameter_groups import group_of

from .common import make_trainer, moved_groups, parameters


def rates(trainer) -> dict[str, set[float]]:
    """Learning rates of the optimizer per group of parameters."""
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    found: dict[str, set[float]] = {}
    for group in trainer.optimizer.param_groups:
        for parameter in group["params"]:
            found.setdefault(group_of(names[id(parameter)]), set()).add(group["lr"])
    return found


def test_the_router_has_its_rate(tmp_path):
    trainer = make_trainer(tmp_path, learning_rate=1e-4, router_learning_rate=3e-3, weight_decay=0.1)
    trainer.create_optimizer()
    assert rates(trainer) == {"shared": {1e-4}, "thinking": {1e-4}, "non_thinking": {1e-4}, "router": {3e-3}}


def test_without_a_rate_of_its_own_it_has_the_runs(tmp_path):
    trainer = make_trainer(tmp_path, learning_rate=1e-4, router_learning_rate=None)
    trainer.create_optimizer()
    assert rates(trainer)["router"] == {1e-4}


def test_every_parameter_is_optimised_once_with_the_decay_it_had(tmp_path):
    decays = []
    for rate in (None, 3e-3):
        trainer = make_trainer(tmp_path, router_learning_rate=rate, weight_decay=0.1)
        trainer.create_optimizer()
        names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
        groups = trainer.optimizer.param_groups
        decays.append({names[id(p)]: group["weight_decay"] for group in groups for p in group["params"]})
        assert sum(len(group["params"]) for group in groups) == len(decays[-1]) == len(names)
    assert decays[0] == decays[1] and set(decays[0].values()) == {0.0, 0.1}


def test_the_schedule_takes_both_rates_down(tmp_path):
    trainer = make_trainer(
        tmp_path, max_steps=4, learning_rate=1e-4, router_learning_rate=3e-3, lr_scheduler_type="linear"
    )
    trainer.train()
    assert rates(trainer)["router"] == {0.0} and rates(trainer)["shared"] == {0.0}


def test_a_given_optimizer_is_left_as_it_is(tmp_path):
    from .common import make_hybrid

    model, processor = make_hybrid()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    trainer = make_trainer(
        tmp_path, model=(model, processor), trainer_options={"optimizers": (optimizer, None)}, max_steps=1
    )
    trainer.train()
    assert [group["lr"] for group in optimizer.param_groups] == [0.5]


@pytest.mark.parametrize("rate", [1e-2, None])
def test_a_rate_for_the_router_does_not_move_it_when_it_is_frozen(tmp_path, rate):
    trainer = make_trainer(tmp_path, trainable="thinking", router_learning_rate=rate)
    before = parameters(trainer.model)
    trainer.train()
    assert moved_groups(before, trainer.model)["router"] == {False}
