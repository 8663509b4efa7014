"""Whatever the decoding strategy, each row of a mixed batch gets what its branch gives it alone."""

import pytest
import torch

from .tiny import (
    EOS,
    IMAGE,
    KINDS,
    NON_THINKING_OPENING,
    PAD,
    THINKING_OPENING,
    VIDEO,
    batch,
    branch_twin,
    prompt_ids,
    tiny_hybrid,
)


PROMPTS = [prompt_ids(0), prompt_ids(1, length=5, images=2), prompt_ids(2, length=11, images=0), prompt_ids(3)]
THINKING = [True, False, False, True]
STRATEGIES = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "beams_return": {"num_beams": 4, "num_return_sequences": 2},
    "no_cache": {"use_cache": False},
}


@pytest.fixture(params=KINDS)
def hybrid(request):
    return tiny_hybrid(**KINDS[request.param])


def answers(model, inputs, **kwargs):
    # Without a cache, an image token that the model wrote would ask for an image.
    sequences = model.generate(**inputs, max_new_tokens=6, do_sample=False, suppress_tokens=[IMAGE, VIDEO], **kwargs)
    return sequences[:, inputs["input_ids"].shape[1] :].tolist()


def strip(tokens):
    """Without padding, which beam search writes as the end of sequence where the padding token is 0."""
    return [token for token in tokens if token not in (PAD, EOS)]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_mixed_batch_equals_rows_alone(hybrid, strategy):
    kwargs = STRATEGIES[strategy]
    found = answers(hybrid, batch(PROMPTS), thinking=THINKING, **kwargs)
    per_row = kwargs.get("num_return_sequences", 1)
    for row, (prompt, flag) in enumerate(zip(PROMPTS, THINKING, strict=True)):
        twin = branch_twin(hybrid, "thinking" if flag else "non_thinking")
        expected = answers(twin, batch([prompt], seeds=[row]), **kwargs)
        rows = found[row * per_row : (row + 1) * per_row]
        assert [strip(tokens) for tokens in rows] == [strip(tokens) for tokens in expected]


@pytest.mark.parametrize("extra", [{}, {"num_return_sequences": 3}, {"num_return_sequences": 2, "num_beams": 2}])
def test_sampling_mixed_equals_each_branch(hybrid, extra):
    # Rows of one sampling call share a random stream, so each row is compared with the same row of its branch's batch.
    inputs = batch(PROMPTS)

    def sample(thinking):
        torch.manual_seed(0)
        return hybrid.generate(**inputs, max_new_tokens=6, do_sample=True, min_new_tokens=6, thinking=thinking, **extra)

    mixed, by_branch = sample(THINKING), {flag: sample(flag) for flag in (True, False)}
    count = extra.get("num_return_sequences", 1)
    for row, flag in enumerate(THINKING):
        rows = slice(row * count, (row + 1) * count)
        assert torch.equal(mixed[rows], by_branch[flag][rows])
    assert not torch.equal(by_branch[True], by_branch[False])


def test_routed_equals_forced(hybrid):
    inputs = batch(PROMPTS)
    threshold = hybrid.route(**inputs).thinking_probability.median().item()
    decision = hybrid.route(**inputs, thinking_threshold=threshold).thinking.bool()
    assert 0 < decision.sum() < 4
    routed = answers(hybrid, inputs, thinking_threshold=threshold)
    assert routed == answers(hybrid, inputs, thinking=decision)
    assert routed == answers(hybrid, inputs, thinking=decision.tolist())
    assert routed == answers(
        hybrid, inputs, thinking=[decision[0].item(), None, None, None], thinking_threshold=threshold
    )


def test_router_is_asked_once(hybrid):
    calls = []
    hybrid.model.language_model.router.register_forward_hook(lambda *_: calls.append(1))
    hybrid.generate(**batch(PROMPTS), max_new_tokens=5, num_beams=2)
    assert len(calls) == 1
    hybrid.generate(**batch(PROMPTS), max_new_tokens=5, thinking=True)
    assert len(calls) == 1


def test_output_names_branch_and_probability(hybrid):
    outputs = hybrid.generate(
        **batch(PROMPTS),
        max_new_tokens=3,
        num_beams=2,
        num_return_sequences=2,
        thinking=[True, None, False, None],
        return_dict_in_generate=True,
    )
    routing = hybrid.route(**batch(PROMPTS))
    assert outputs.thinking.tolist() == [
        1, 1, routing.thinking[1], routing.thinking[1], 0, 0, routing.thinking[3], routing.thinking[3]
    ]  # fmt: skip
    assert outputs.thinking_probability.isnan().tolist() == [True, True, False, False] * 2


def test_forced_opening_decides(hybrid):
    prompts = [PROMPTS[0] + THINKING_OPENING, PROMPTS[0] + NON_THINKING_OPENING, PROMPTS[0] + NON_THINKING_OPENING[:2]]
    outputs = hybrid.generate(**batch(prompts, seeds=[0, 0, 0]), max_new_tokens=2, return_dict_in_generate=True)
    assert outputs.thinking.tolist() == [1, 0, 0]
    assert outputs.thinking_probability.isnan().all()


def test_prefill_that_is_no_opening_is_routed(hybrid):
    outputs = hybrid.generate(**batch([PROMPTS[0] + [33]]), max_new_tokens=2, return_dict_in_generate=True)
    expected = hybrid.route(**batch([PROMPTS[0]])).thinking_probability
    torch.testing.assert_close(outputs.thinking_probability, expected, rtol=0, atol=1e-5)


def test_without_token_types_positions_are_right(hybrid):
    inputs = batch(PROMPTS)
    bare = {name: value for name, value in inputs.items() if name != "mm_token_type_ids"}
    assert answers(hybrid, bare, thinking=True) == answers(hybrid, inputs, thinking=True)
    with torch.no_grad():
        assert torch.equal(hybrid(**bare, thinking=True).logits, hybrid(**inputs, thinking=True).logits)


def test_inputs_embeds(hybrid):
    inputs = batch(PROMPTS[2:3])
    embeds = hybrid.get_input_embeddings()(inputs["input_ids"])
    found = hybrid.generate(
        inputs_embeds=embeds, attention_mask=inputs["attention_mask"], max_new_tokens=4, thinking=True
    )
    assert found.tolist() == [row[:4] for row in answers(hybrid, inputs, thinking=True)]
    assert hybrid.generate(inputs_embeds=embeds, max_new_tokens=2).shape == (1, 2)


def test_continuing_a_cache_needs_the_branch(hybrid):
    inputs = batch(PROMPTS[2:3])
    first = hybrid.generate(**inputs, max_new_tokens=3, thinking=False, return_dict_in_generate=True)
    more = torch.cat([first.sequences, torch.tensor([[33, 34]])], dim=1)
    mask = torch.ones_like(more)
    with pytest.raises(ValueError, match="`thinking` is not given, but `.*` already holds tokens"):
        hybrid.generate(more, attention_mask=mask, past_key_values=first.past_key_values, max_new_tokens=2)
    found = hybrid.generate(
        more, attention_mask=mask, past_key_values=first.past_key_values, max_new_tokens=3, thinking=False
    )
    fresh = hybrid.generate(more, attention_mask=mask, max_new_tokens=3, thinking=False)
    assert torch.equal(found, fresh)
