"""`decide` says which branch `generate` would take and why; `generate(decision=...)` answers with it."""

import numpy as np
import pytest
import torch

from hf_metis_home.conversion.router_export import router_config, router_tensors
from hf_metis_home.modeling import MetisHomeForConditionalGeneration, MetisHomeModel
from hf_metis_home.modeling.router_metis_home import is_thinking

from .tiny import KINDS, NON_THINKING_OPENING, THINKING_OPENING, batch, prompt_ids, tiny_hybrid


PROMPTS = [prompt_ids(0), prompt_ids(1, length=5, images=2), prompt_ids(2, length=11, images=0), prompt_ids(3)]
OPENED = [PROMPTS[0] + THINKING_OPENING, PROMPTS[1] + NON_THINKING_OPENING, PROMPTS[2], PROMPTS[3]]


@pytest.fixture(params=KINDS)
def hybrid(request):
    return tiny_hybrid(**KINDS[request.param])


def calls_of(module) -> list:
    calls: list = []
    module.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_says_what_decided_each_row(hybrid):
    inputs = batch(OPENED)
    threshold = hybrid.route(**inputs).thinking_probability.median().item()
    decision = hybrid.decide(**inputs, thinking=[None, None, False, None], thinking_threshold=threshold)
    routing = hybrid.route(**inputs, thinking_threshold=threshold)
    assert decision.source == ["opening", "opening", "request", "router"]
    assert decision.thinking.tolist() == [1, 0, 0, routing.thinking[3]] and decision.thinking.dtype == torch.long
    assert decision.thinking_probability.isnan().tolist() == [True, True, True, False]
    assert decision.thinking_probability[3] == routing.thinking_probability[3]
    assert hybrid.model.decide(**inputs).source == hybrid.decide(**inputs).source


@pytest.mark.parametrize("thinking", [None, True, [True, None, False, None], torch.tensor([1, -1, 0, -1])])
@pytest.mark.parametrize("kwargs", [{}, {"num_beams": 3, "num_return_sequences": 2}], ids=["greedy", "beams"])
def test_generate_takes_a_decision_made_before(hybrid, thinking, kwargs):
    kwargs = {"max_new_tokens": 5, "do_sample": False, "return_dict_in_generate": True, **kwargs}
    expected = hybrid.generate(**batch(PROMPTS), thinking=thinking, **kwargs)
    towers, routers = calls_of(hybrid.model.visual), calls_of(hybrid.model.language_model.router)
    decision = hybrid.decide(**batch(PROMPTS), thinking=thinking)
    asked = len(routers)
    for _ in range(2):  # answering changes nothing in a decision
        found = hybrid.generate(**batch(PROMPTS), decision=decision, **kwargs)
        assert torch.equal(found.sequences, expected.sequences) and torch.equal(found.thinking, expected.thinking)
        torch.testing.assert_close(
            found.thinking_probability, expected.thinking_probability, equal_nan=True, rtol=0, atol=1e-6
        )
    assert len(routers) == asked == (thinking is not True)
    # Where the router is not asked, deciding needs no vision features, and each answer makes its own.
    assert len(towers) == (1 if asked else 2)


def test_with_a_budget(hybrid):
    inputs, options = batch(OPENED), {"max_new_tokens": 6, "min_new_tokens": 6, "max_thinking_tokens": 2}
    decision = hybrid.decide(**inputs)
    found = hybrid.generate(**inputs, decision=decision, **options)
    assert torch.equal(found, hybrid.generate(**inputs, **options))
    assert not torch.equal(found, hybrid.generate(**inputs, decision=decision, max_new_tokens=6, min_new_tokens=6))


def test_a_router_alone_decides(hybrid):
    config = router_config(hybrid.config)
    router = MetisHomeModel(config).eval()
    names = router_tensors(hybrid.state_dict(), hybrid.config)
    router.load_state_dict({name.removeprefix("model."): hybrid.state_dict()[name] for name in names})
    found, expected = router.decide(**batch(OPENED)), hybrid.decide(**batch(OPENED))
    assert found.source == expected.source == ["opening", "opening", "router", "router"]
    assert torch.equal(found.thinking, expected.thinking)
    # The model answers with what the router decided.
    answers = hybrid.generate(**batch(OPENED), decision=found, max_new_tokens=4)
    assert torch.equal(answers, hybrid.generate(**batch(OPENED), decision=expected, max_new_tokens=4))


@pytest.mark.parametrize("branch", ["thinking", "non_thinking"])
def test_the_only_branch_is_a_request(tmp_path, branch):
    tiny_hybrid().save_pretrained(tmp_path)
    model = MetisHomeForConditionalGeneration.from_pretrained(tmp_path, only_branch=branch)
    decision = model.decide(**batch(PROMPTS))
    assert decision.source == ["request"] * 4 and decision.thinking.tolist() == [int(branch == "thinking")] * 4
    with pytest.raises(ValueError, match="`thinking` asks for the"):
        model.decide(**batch(PROMPTS), thinking=branch != "thinking")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"thinking": [True]}, r"`thinking` has shape \(1,\), but the batch has 4 rows"),
        ({"thinking": "yes"}, "`thinking` is 'yes', but must be True"),
        ({"thinking": [False, None, None, None]}, "`thinking` forces the non-thinking branch in row 0"),
        ({"thinking": True, "thinking_threshold": 0.5}, "`thinking_threshold=0.5` has no effect"),
        ({"thinking_threshold": 1.5}, r"must be a number in \[0, 1\]"),
    ],
)
def test_bad_requests(kwargs, message):
    hybrid = tiny_hybrid()
    for call in (hybrid.decide, hybrid.model.decide, lambda **all_: hybrid.generate(**all_, max_new_tokens=1)):
        with pytest.raises(ValueError, match=message):
            call(**batch(OPENED), **kwargs)


def test_decisions_that_do_not_fit():
    hybrid = tiny_hybrid()
    decision = hybrid.decide(**batch(PROMPTS))
    for kwargs in ({"thinking": True}, {"thinking_threshold": 0.3}):
        with pytest.raises(ValueError, match="`decision` already names the branch of every row"):
            hybrid.generate(**batch(PROMPTS), decision=decision, max_new_tokens=1, **kwargs)
    with pytest.raises(ValueError, match="`decision` has 4 rows, but the inputs have 2"):
        hybrid.generate(**batch(PROMPTS[:2]), decision=decision, max_new_tokens=1)
    with pytest.raises(ValueError, match="`max_thinking_tokens=3` has no effect"):
        no_thoughts = hybrid.decide(**batch(PROMPTS), thinking=False)
        hybrid.generate(**batch(PROMPTS), decision=no_thoughts, max_thinking_tokens=3)
    inputs = batch(PROMPTS)
    inputs["attention_mask"][1] = 0
    with pytest.raises(ValueError, match="`attention_mask` is all zero in row 1"):
        hybrid.decide(**inputs)


def test_deciding_leaves_no_trace(hybrid):
    hybrid.generate(**batch(PROMPTS), max_new_tokens=2)
    before = hybrid.model.rope_deltas.clone()
    hybrid.decide(**batch(PROMPTS[:1]))
    assert torch.equal(hybrid.model.rope_deltas, before)


def test_is_thinking_keeps_the_kind():
    values = [0.2, 0.7, float("nan")]
    assert [is_thinking(value, 0.7) for value in values] == [False, True, False]
    assert is_thinking(torch.tensor(values), 0.7).tolist() == [False, True, False]
    found = is_thinking(np.array(values), 0.7)
    assert found.dtype == bool and found.tolist() == [False, True, False]
    assert isinstance(is_thinking(np.float32(0.7), 0.7), bool)


@pytest.mark.parametrize("make", [list, torch.tensor, np.array])
def test_is_thinking_takes_a_threshold_per_row(make):
    assert is_thinking(torch.tensor([0.7, 0.7]), make([0.7, 0.8])).tolist() == [True, False]
    assert is_thinking(np.array([0.7, 0.7]), make([0.7, 0.8])).tolist() == [True, False]


def test_is_thinking_compares_in_fp32():
    threshold = 0.7  # as fp32 a little less
    assert float(torch.tensor(threshold)) < threshold
    for probability in (torch.tensor([threshold]), np.array([threshold], dtype=np.float32), float(np.float32(0.7))):
        assert np.all(np.asarray(is_thinking(probability, threshold)))
