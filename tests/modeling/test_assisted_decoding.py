"""Drafted tokens, looked up or from an assistant of either kind, leave the answer as the dense model gives it alone."""

import copy

import pytest
import torch

from .generating import PROMPTS, answers, generate, hybrid_and_twins, single
from .tiny import NON_THINKING_OPENING, THINKING_OPENING, tiny_dense, tiny_hybrid


ROWS = (1, 2)  # with and without images; upstream drafts for one row at a time


@pytest.fixture(params=["ffn_0", "ffn_1", "lora_attention_0"], scope="module")
def models(request):
    return hybrid_and_twins(request.param)


class Opening:
    """A logits processor that makes answers start with the given tokens."""

    def __init__(self, width, tokens):
        self.width, self.tokens = width, tokens

    def __call__(self, input_ids, scores):
        done = input_ids.shape[1] - self.width
        if done >= len(self.tokens):
            return scores
        return torch.full_like(scores, -1e9).index_fill(1, torch.tensor(self.tokens[done]), 0.0)


def lengths_of_calls(model):
    lengths = []
    handle = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    return lengths, handle


@pytest.mark.parametrize("thinking", [True, False])
def test_prompt_lookup_equals_dense(models, thinking):
    hybrid, twins = models
    drafted = 0
    for row in ROWS:
        lengths, handle = lengths_of_calls(hybrid)
        found = answers(hybrid, single(row), thinking=thinking, prompt_lookup_num_tokens=3, max_new_tokens=20)
        handle.remove()
        drafted += sum(length > 1 for length in lengths[1:])
        expected = answers(twins[thinking], single(row), prompt_lookup_num_tokens=3, max_new_tokens=20)
        assert found == expected
    assert drafted > 0


# "same" drafts what the target would say where it takes the target's branch, so drafts are accepted; "other" has other
# weights, so they are refused.
ASSISTANTS = {
    "dense_same": lambda hybrid, twin: copy.deepcopy(twin),
    "dense_other": lambda hybrid, twin: tiny_dense(seed=5),
    "hybrid_same": lambda hybrid, twin: copy.deepcopy(hybrid),
    "hybrid_other": lambda hybrid, twin: tiny_hybrid(seed=7, router_layer=0),
}


@pytest.mark.parametrize("assistant", ASSISTANTS)
@pytest.mark.parametrize("thinking", [True, False])
@pytest.mark.parametrize("target", ["hybrid", "dense"])
def test_assisted_equals_dense(models, target, thinking, assistant):
    hybrid, twins = models
    assistant = ASSISTANTS[assistant](hybrid, twins[thinking])
    for row in ROWS:
        expected = answers(twins[thinking], single(row), assistant_model=tiny_dense(seed=6))
        if target == "hybrid":
            assert answers(hybrid, single(row), assistant_model=assistant, thinking=thinking) == expected
        else:
            assert answers(twins[thinking], single(row), assistant_model=assistant) == expected


@pytest.mark.parametrize("target", ["hybrid", "dense"])
def test_assisted_asks_each_router_once_at_most(models, target):
    hybrid, twins = models
    assistant = tiny_hybrid(seed=7)
    asked = {"hybrid": 0, "assistant": 0}
    handles = [
        model.model.language_model.router.register_forward_hook(
            lambda *_, name=name: asked.update({name: asked[name] + 1})
        )
        for name, model in (("hybrid", hybrid), ("assistant", assistant))
    ]
    generate(hybrid if target == "hybrid" else twins[True], single(1), assistant_model=assistant)
    for handle in handles:
        handle.remove()
    # A hybrid target decides for its assistant too; a dense one leaves the decision to it.
    assert asked == ({"hybrid": 1, "assistant": 0} if target == "hybrid" else {"hybrid": 0, "assistant": 1})


@pytest.mark.parametrize("opening", [THINKING_OPENING, NON_THINKING_OPENING], ids=["thinking", "non_thinking"])
@pytest.mark.parametrize("thinking", [True, False])
def test_assisted_answer_may_start_with_either_opening(models, thinking, opening):
    # To the assistant, the answer so far is part of the prompt. It must not be taken for an opening that was forced.
    hybrid, twins = models
    processors = {"logits_processor": [Opening(len(PROMPTS[2]), [*opening, 30])]}
    expected = answers(twins[thinking], single(2), **processors)
    found = answers(hybrid, single(2), thinking=thinking, assistant_model=copy.deepcopy(hybrid), **processors)
    assert found == expected
    assert answers(twins[thinking], single(2), assistant_model=copy.deepcopy(hybrid), **processors) == expected
