"""Decoder layers are the backbone's own with a mixin in front: what wrappers, copies and checkpointing see of that."""

import copy
import pickle

import pytest
import torch
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as dense

from .tiny import KINDS, batch, prompt_ids, tiny_hybrid


PROMPTS = [prompt_ids(0), prompt_ids(1, length=5, images=2), prompt_ids(2, images=0)]
MIXED = torch.tensor([True, False, True])


@pytest.mark.parametrize("kind", KINDS)
def test_layers_are_of_one_class_by_the_dense_name(kind):
    """FSDP's policies and device maps look classes up by name, and take the first that they find."""
    layers = tiny_hybrid(**KINDS[kind]).model.language_model.layers
    assert len({type(layer) for layer in layers}) == 1
    assert type(layers[0]).__name__ == "Qwen2_5_VLDecoderLayer" and isinstance(layers[0], dense.Qwen2_5_VLDecoderLayer)


def test_the_language_model_is_built_once(monkeypatch):
    built, build = [], dense.Qwen2_5_VLTextModel.__init__
    monkeypatch.setattr(
        dense.Qwen2_5_VLTextModel, "__init__", lambda self, config: (built.append(1), build(self, config))[1]
    )
    tiny_hybrid()
    assert built == [1]


@pytest.mark.parametrize("again", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_is_the_same_model(kind, again):
    model, inputs = tiny_hybrid(**KINDS[kind]), batch(PROMPTS)
    other = again(model)
    with torch.no_grad():
        assert torch.equal(other(**inputs, thinking=MIXED).logits, model(**inputs, thinking=MIXED).logits)
        for parameter in model.parameters():
            parameter.zero_()
        assert other(**inputs, thinking=MIXED).logits.any()


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_checkpointing_recomputes_no_decision(kind, reentrant):
    model = tiny_hybrid(**KINDS[kind]).train()
    inputs = batch(PROMPTS, side="right", completions=[[40, 41]] * 3)
    decided, ask = [], type(model.model.language_model.router).forward
    router = model.model.language_model.router
    router.forward = lambda *args: (decided.append(1), ask(router, *args))[1]
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        model.zero_grad()
        outputs = model(**inputs, thinking=MIXED, labels=inputs["input_ids"], use_cache=False)
        (outputs.loss + torch.nn.functional.cross_entropy(outputs.branch_logits, MIXED.long())).backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert decided == [1, 1]
    for name, gradient in gradients[0].items():
        assert (gradient is None and gradients[1][name] is None) or torch.equal(gradient, gradients[1][name]), name
