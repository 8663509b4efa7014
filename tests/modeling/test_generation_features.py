"""Under every generation feature, each row of a mixed batch gets what the dense model of its branch gives it alone."""

import copy

import pytest
import torch

from .generating import (
    CHUNKED_PREFILL,
    NEW,
    PENALISES_PADDING,
    PROMPTS,
    QUANTISED_CACHE,
    THINKING,
    answers,
    assert_same,
    generate,
    hybrid_and_twins,
    single,
)
from .tiny import PAD, TURN_END, batch, prompt_ids


class Alternate:
    """A logits processor that allows even tokens at even positions of the answer, odd ones at odd positions."""

    def __init__(self, width):
        self.width = width

    def __call__(self, input_ids, scores):
        wrong = torch.arange(scores.shape[1]) % 2 != (input_ids.shape[1] - self.width) % 2
        return scores.masked_fill(wrong, -1e9)


def multiple_of_five(input_ids, scores):
    return input_ids[:, -1] % 5 == 0


STRATEGIES = {
    "dynamic_cache": lambda width: {"cache_implementation": "dynamic"},
    "static_cache": lambda width: {"cache_implementation": "static"},
    "static_cache_beams": lambda width: {"cache_implementation": "static", "num_beams": 2},
    "chunked_prefill": lambda width: {"prefill_chunk_size": 3},
    "chunked_prefill_static_cache": lambda width: {"prefill_chunk_size": 3, "cache_implementation": "static"},
    "chunked_prefill_beams": lambda width: {"prefill_chunk_size": 4, "num_beams": 2},
    "logits_processor": lambda width: {"logits_processor": [Alternate(width)]},
    "logits_processor_beams": lambda width: {"logits_processor": [Alternate(width)], "num_beams": 3},
    "stopping_criteria": lambda width: {"stopping_criteria": [multiple_of_five]},
    "repetition": lambda width: {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
    "allowed_tokens": lambda width: {"prefix_allowed_tokens_fn": lambda row, ids: list(range(1, 80, 3))},
}
# One group per token and head, so that no row is rounded together with another.
GROUPS = {"q_group_size": 16, "residual_length": 4}
QUANTISED = {
    "quanto": {"nbits": 2, **GROUPS},
    "hqq": {"nbits": 4, "axis_key": 1, "axis_value": 1, **GROUPS},
}
QUANTISED_BY = {"quanto": ("optimum.quanto", "optimum-quanto"), "hqq": ("hqq", "hqq")}  # module, package


@pytest.fixture(params=["ffn_0", "ffn_1", "lora_attention_0"], scope="module")
def models(request):
    return hybrid_and_twins(request.param)


def test_branches_answer_differently(models):
    twins = models[1]
    for row in range(len(PROMPTS)):
        assert answers(twins[True], single(row))[0][:2] != answers(twins[False], single(row))[0][:2]


@pytest.mark.parametrize(
    "strategy",
    [pytest.param(name, marks=CHUNKED_PREFILL if "chunked" in name else ()) for name in STRATEGIES],
)
def test_mixed_batch_equals_dense_rows(models, strategy):
    hybrid, twins = models
    inputs = batch(PROMPTS)
    found = answers(hybrid, inputs, thinking=THINKING, **STRATEGIES[strategy](inputs["input_ids"].shape[1]))
    for row, flag in enumerate(THINKING):
        if strategy == "repetition" and PENALISES_PADDING:
            kwargs = STRATEGIES[strategy](inputs["input_ids"].shape[1])
            assert found[row] == answers(twins[flag], inputs, **kwargs)[row]
            continue
        kwargs = STRATEGIES[strategy](len(PROMPTS[row]))
        assert_same(found[row], answers(twins[flag], single(row), **kwargs)[0])


@pytest.mark.slow  # quanto compiles its kernels at the first use
@QUANTISED_CACHE
@pytest.mark.parametrize("kwargs", [{}, {"num_beams": 2}], ids=["greedy", "beams"])
@pytest.mark.parametrize("backend", QUANTISED)
def test_quantised_cache_equals_dense_rows(models, backend, kwargs):
    # As hqq fails at an odd number of groups, a row is compared with the same row of its dense model's batch.
    module, package = QUANTISED_BY[backend]
    pytest.importorskip(module, reason=f"needs {package}, which no extra installs: pip install {package}")
    hybrid, twins = models
    config = {"backend": backend, **QUANTISED[backend]}
    quantised = {"cache_implementation": "quantized", "cache_config": config, **kwargs}
    found = answers(hybrid, batch(PROMPTS), thinking=THINKING, **quantised)
    dense = {flag: answers(twin, batch(PROMPTS), **quantised) for flag, twin in twins.items()}
    assert found == [dense[flag][row] for row, flag in enumerate(THINKING)]
    assert found != answers(hybrid, batch(PROMPTS), thinking=THINKING, **kwargs)  # the rounding shows


@QUANTISED_CACHE
@pytest.mark.parametrize("thinking", [True, False])
def test_fp8_cache_equals_dense(models, thinking):
    # One scale serves the whole batch, so that a row's answer depends on its neighbours, in the dense model too.
    hybrid, twins = models
    fp8 = {"cache_implementation": "quantized", "cache_config": {"backend": "fp8"}}
    found = answers(hybrid, batch(PROMPTS), thinking=thinking, **fp8)
    assert found == answers(twins[thinking], batch(PROMPTS), **fp8)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA: an offloaded cache moves between GPU and CPU")
@pytest.mark.parametrize(
    "strategy",
    [
        "offloaded",
        pytest.param(
            "offloaded_static",
            marks=pytest.mark.xfail(
                run=False, reason="a bus error with torch 2.11 on an H100; its cause was not found"
            ),
        ),
    ],
)
def test_offloaded_cache_equals_dense_rows(models, strategy):
    hybrid, twins = copy.deepcopy(models)
    found = answers(hybrid.cuda(), on_gpu(batch(PROMPTS)), thinking=THINKING, cache_implementation=strategy)
    for row, flag in enumerate(THINKING):
        assert_same(found[row], answers(twins[flag].cuda(), on_gpu(single(row)), cache_implementation=strategy)[0])


def on_gpu(inputs):
    return {name: tensor.cuda() for name, tensor in inputs.items()}


class Recorder:
    """A streamer that keeps what it is given."""

    def __init__(self):
        self.pieces, self.ended = [], 0

    def put(self, tokens):
        self.pieces.append(tokens.clone())

    def end(self):
        self.ended += 1


def test_streamer_gets_every_token_of_every_row(models):
    hybrid, twins = models
    inputs, streamer = batch(PROMPTS), Recorder()
    found = generate(hybrid, inputs, thinking=THINKING, streamer=streamer)
    assert streamer.ended == 1 and torch.equal(streamer.pieces[0], inputs["input_ids"])
    assert torch.equal(torch.cat([streamer.pieces[0], torch.stack(streamer.pieces[1:], dim=1)], dim=1), found)
    for row, flag in enumerate(THINKING):
        alone = Recorder()
        generate(twins[flag], single(row), streamer=alone)
        assert_same([piece[row].item() for piece in streamer.pieces[1:]], torch.cat(alone.pieces[1:]).tolist())


@pytest.mark.parametrize("kwargs", [{}, {"num_beams": 2}, {"num_beams": 3, "num_return_sequences": 2}])
def test_sampling_equals_dense_rows(models, kwargs):
    # Rows of one call share a random stream, so a row is compared with the same row of its dense model's batch.
    hybrid, twins = models
    kwargs = {"do_sample": True, "min_new_tokens": NEW, "top_k": 20, "temperature": 0.8, **kwargs}

    def sample(model, **thinking):
        torch.manual_seed(0)
        return generate(model, batch(PROMPTS), **kwargs, **thinking)

    mixed, dense = sample(hybrid, thinking=THINKING), {flag: sample(twin) for flag, twin in twins.items()}
    count = kwargs.get("num_return_sequences", 1)
    for row, flag in enumerate(THINKING):
        rows = slice(row * count, (row + 1) * count)
        assert torch.equal(mixed[rows], dense[flag][rows]) and not torch.equal(mixed[rows], dense[not flag][rows])


def test_scores_and_hidden_states_equal_dense_rows(models):
    hybrid, twins = models
    wanted = dict.fromkeys(("return_dict_in_generate", "output_scores", "output_logits", "output_hidden_states"), True)
    found = generate(hybrid, batch(PROMPTS), thinking=THINKING, **wanted)
    for row, flag in enumerate(THINKING):
        alone = generate(twins[flag], single(row), **wanted)
        for step in range(len(alone.scores)):
            for name in ("scores", "logits"):
                torch.testing.assert_close(found[name][step][row], alone[name][step][0], rtol=0, atol=1e-4)
            layers = zip(found.hidden_states[step], alone.hidden_states[step], strict=True)
            for mixed_layer, alone_layer in layers:
                torch.testing.assert_close(mixed_layer[row, -1], alone_layer[0, -1], rtol=0, atol=1e-4)


def test_second_turn_is_routed_afresh(models):
    hybrid, twins = models
    first = answers(hybrid, batch(PROMPTS))
    talks = []
    for row, (prompt, answer) in enumerate(zip(PROMPTS, first, strict=True)):
        answer = [token for token in answer if token != PAD]
        talks.append(prompt + answer + [TURN_END] + prompt_ids(20 + row, images=0))
    before, after = (hybrid.route(**batch(rows)).thinking_probability for rows in (PROMPTS, talks))
    changed = (before - after).abs().argmax()
    threshold = ((before[changed] + after[changed]) / 2).item()

    found = generate(hybrid, batch(talks), thinking_threshold=threshold, return_dict_in_generate=True)
    assert found.thinking.tolist() == (after >= threshold).long().tolist()
    assert found.thinking[changed] != (before[changed] >= threshold)
    for row, talk in enumerate(talks):
        expected = answers(twins[bool(found.thinking[row])], batch([talk], seeds=[row]))[0]
        assert_same(found.sequences[row, max(map(len, talks)) :].tolist(), expected)


@pytest.mark.parametrize("entry", ["generate_batch", "init", "context_manager", "paged"])
def test_continuous_batching_is_refused(models, entry):
    # It packs queries into one row, so one query's route would be every query's.
    hybrid = models[0]
    implementation = hybrid.config._attn_implementation
    with pytest.raises(ValueError, match="one branch per row"):
        if entry == "generate_batch":
            hybrid.generate_batch([PROMPTS[2]], max_new_tokens=2)
        elif entry == "init":
            hybrid.init_continuous_batching()
        elif entry == "context_manager":
            with hybrid.continuous_batching_context_manager():
                pass
        else:
            hybrid.generate(torch.tensor([PROMPTS[2]]), max_new_tokens=2, cache_implementation="paged")
    assert hybrid.config._attn_implementation == implementation


NEGATIVE = torch.tensor([prompt[-5:] for prompt in PROMPTS])


@pytest.mark.parametrize(
    "kwargs", [{}, {"num_beams": 2}, {"negative_prompt_ids": NEGATIVE}], ids=["greedy", "beams", "negative"]
)
def test_guidance_asks_the_branch_of_the_row(models, kwargs):
    hybrid, twins = models
    guided = {"guidance_scale": 2.0, "use_cache": False, **kwargs}
    for thinking in (THINKING, [not flag for flag in THINKING], True):
        found = answers(hybrid, batch(PROMPTS), thinking=thinking, **guided)
        dense = {flag: answers(twin, batch(PROMPTS), **guided) for flag, twin in twins.items()}
        flags = thinking if isinstance(thinking, list) else [thinking] * len(PROMPTS)
        assert found == [dense[flag][row] for row, flag in enumerate(flags)]


def test_guidance_with_a_cache_is_refused(models):
    # The dense model fails in the middle, at shapes that do not fit.
    hybrid, twins = models
    with pytest.raises(RuntimeError, match="shapes"):
        answers(twins[True], batch(PROMPTS), guidance_scale=2.0)
    with pytest.raises(ValueError, match="`guidance_scale=2.0` needs `use_cache=False`"):
        answers(hybrid, batch(PROMPTS), guidance_scale=2.0)
