"""Branches copied from a dense model compute what it computes, to the last bit, alone and mixed."""

import pytest
import torch

from hf_metis_home.conversion import upcycle

from .tiny import KINDS, batch, branch_twin, prompt_ids, tiny_dense, tiny_hybrid


PROMPTS = [prompt_ids(0), prompt_ids(1, length=5, images=2), prompt_ids(2, length=11, images=0), prompt_ids(3)]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", [{"router_layer": 2}, *KINDS.values()], ids=["ffn_2", *KINDS])
@pytest.mark.parametrize("thinking", [True, False, [True, False, False, True], None])
def test_upcycled_equals_dense(kind, thinking, side):
    dense = tiny_dense()
    hybrid = upcycle(dense, **kind).eval()
    inputs = batch(PROMPTS, side)
    with torch.no_grad():
        expected = dense(**inputs).logits
        found = hybrid(**inputs, thinking=thinking).logits
    kept = inputs["attention_mask"].bool()
    assert (found - expected)[kept].abs().max() == 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_mixed_batch_equals_each_branch(kind):
    hybrid = tiny_hybrid(**KINDS[kind])
    inputs = batch(PROMPTS)
    thinking = [True, False, False, True]
    with torch.no_grad():
        mixed = hybrid(**inputs, thinking=thinking).logits
        twins = {True: branch_twin(hybrid, "thinking"), False: branch_twin(hybrid, "non_thinking")}
        per_branch = {flag: twin(**inputs).logits for flag, twin in twins.items()}
    for row, flag in enumerate(thinking):
        kept = inputs["attention_mask"][row].bool()
        torch.testing.assert_close(mixed[row][kept], per_branch[flag][row][kept], rtol=0, atol=1e-5)
        assert (mixed[row][kept] - per_branch[not flag][row][kept]).abs().max() > 1e-2


def test_gradients_equal_dense():
    dense = tiny_dense()
    hybrid = upcycle(dense, router_layer=1)
    inputs = batch(PROMPTS, completions=[[30, 31, 1]] * 4)
    labels = inputs["input_ids"].masked_fill(inputs["prompt_mask"] | (inputs["attention_mask"] == 0), -100)
    prompt_mask = inputs.pop("prompt_mask")
    dense(**inputs, labels=labels).loss.backward()
    hybrid(**inputs, labels=labels, thinking=[True, False, False, True], prompt_mask=prompt_mask).loss.backward()
    grads = {name: parameter.grad for name, parameter in hybrid.named_parameters()}
    for name, parameter in dense.named_parameters():
        if name in grads:
            found = grads[name]
        else:
            halves = [grads[name.replace(".mlp.", f".mlp.{branch}.")] for branch in ("thinking", "non_thinking")]
            assert all(half.abs().sum() > 0 for half in halves)
            found = sum(halves)
        torch.testing.assert_close(found, parameter.grad, rtol=1e-4, atol=1e-6)


def test_branch_without_rows_gets_zero_gradients():
    # Skipping it would leave `None`, and ranks that skip different branches would then reduce the wrong gradients.
    hybrid = tiny_hybrid()
    inputs = batch(PROMPTS)
    prompt_mask = inputs["attention_mask"].bool()
    hybrid(**inputs, labels=inputs["input_ids"], thinking=True, prompt_mask=prompt_mask).loss.backward()
    idle = [p.grad for name, p in hybrid.named_parameters() if ".mlp.non_thinking." in name]
    assert len(idle) == 6 and all(grad is not None and grad.abs().max() == 0 for grad in idle)


def test_untrained_router_is_undecided():
    hybrid = upcycle(tiny_dense())
    routing = hybrid.route(**batch(PROMPTS))
    assert routing.thinking_probability.tolist() == [0.5] * 4
