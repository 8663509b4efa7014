"""In training, every batch runs every module of a layer, in one order: what sharded parameters are gathered by."""

import pytest
import torch

from tests.trainers.common import LOW_RANK, make_dataset, make_hybrid, make_trainer


KINDS = {"ffn_0": {"router_layer": 0}, "ffn_1": {"router_layer": 1}, "lora": LOW_RANK}


def order_of(trainer, modes) -> list[str]:
    batch = trainer.data_collator([dict(row) for row in make_dataset(modes, images=(1,))])
    names = []
    hooks = [
        module.register_forward_pre_hook(lambda module, args, name=name: names.append(name))
        for name, module in trainer.model.named_modules()
    ]
    trainer.compute_loss(trainer.model.train(), batch).backward()
    for hook in hooks:
        hook.remove()
    return names


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_does_not_depend_on_the_rows(tmp_path, kind):
    trainer = make_trainer(tmp_path, model=make_hybrid(**KINDS[kind]))
    orders = [order_of(trainer, modes) for modes in ((True,) * 4, (False,) * 4, (True, False, True, True))]
    assert orders[0] == orders[1] == orders[2]
    assert any(".thinking" in name for name in orders[0]) and any(".non_thinking" in name for name in orders[0])


def test_text_alone_is_the_same_with_and_without_a_vision_tower_that_runs(monkeypatch):
    from hf_metis_home.modeling import mixins_metis_home
    from tests.trainers.two_ranks import batch_of, loss_of

    losses, gradients = [], []
    for distributed in (False, True):
        monkeypatch.setattr(mixins_metis_home, "_is_distributed", lambda value=distributed: value)
        model = make_hybrid()[0].train()
        loss = loss_of(model, batch_of((True, False), images=(0,)))
        loss.backward()
        losses.append(loss.detach())
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert losses[0].equal(losses[1])
    for name, gradient in gradients[1].items():
        if ".visual." in name:  # takes part, and learns nothing
            assert gradient is not None and not gradient.any() and gradients[0][name] is None
        else:
            torch.testing.assert_close(gradient, gradients[0][name], atol=0, rtol=0)
