"""One decision per query: from prompt tokens only, and the same wherever it is asked for."""

import pytest
import torch

from .tiny import HEADER, NON_THINKING_OPENING, TURN_END, batch, prompt_ids, tiny_hybrid


PROMPTS = [prompt_ids(0), prompt_ids(1, length=5, images=2), prompt_ids(2, length=11, images=0), prompt_ids(3)]
COMPLETIONS = [[30, 31, 32, 1], [40, 1], [50, 51, 52, 53, 54, 1], [60, 61, 1]]


@pytest.fixture(params=[(k, pooling) for k in (0, 1, 2) for pooling in ("mean", "modality_mean", "attention")])
def hybrid(request):
    router_layer, pooling = request.param
    return tiny_hybrid(router_layer=router_layer, router_pooling=pooling)


def alone(hybrid):
    return torch.cat(
        [hybrid.route(**batch([prompt], seeds=[row])).thinking_probability for row, prompt in enumerate(PROMPTS)]
    )


def test_probabilities_differ_between_queries(hybrid):
    assert alone(hybrid).std() > 0.01


@pytest.mark.parametrize("side", ["left", "right"])
def test_same_in_batch_training_and_generate(hybrid, side):
    expected = alone(hybrid)
    threshold = expected.median().item()
    inputs = batch(PROMPTS, side)
    routing = hybrid.route(**inputs, thinking_threshold=threshold)
    torch.testing.assert_close(routing.thinking_probability, expected, rtol=0, atol=1e-5)

    training = hybrid(**batch(PROMPTS, side, COMPLETIONS), thinking=[True, False, True, False])
    torch.testing.assert_close(training.branch_logits.softmax(-1)[:, 1], expected, rtol=0, atol=1e-5)

    if side == "left":
        outputs = hybrid.generate(
            **inputs, max_new_tokens=2, return_dict_in_generate=True, thinking_threshold=threshold
        )
        torch.testing.assert_close(outputs.thinking_probability, expected, rtol=0, atol=1e-5)
        assert outputs.thinking.tolist() == routing.thinking.tolist()


def test_independent_of_neighbours(hybrid):
    inputs = batch([PROMPTS[0], prompt_ids(9, length=40, images=3)], seeds=[0, 9])
    found = hybrid.route(**inputs).thinking_probability[0]
    torch.testing.assert_close(found, alone(hybrid)[0], rtol=0, atol=1e-5)


def test_images_are_read(hybrid):
    first = hybrid.route(**batch([PROMPTS[0]], seeds=[0])).thinking_probability
    other = hybrid.route(**batch([PROMPTS[0]], seeds=[5])).thinking_probability
    assert (first - other).abs() > 1e-4


def test_answers_are_not_read(hybrid):
    with torch.no_grad():
        one = hybrid(**batch(PROMPTS, completions=COMPLETIONS), thinking=True).branch_logits
        two = hybrid(**batch(PROMPTS, completions=[[70, 71], [72], [73], [74]]), thinking=True).branch_logits
    torch.testing.assert_close(one, two, rtol=0, atol=1e-5)


@pytest.mark.parametrize("prefill", [[33, 34], [10], NON_THINKING_OPENING])
def test_open_assistant_turn_is_not_read(hybrid, prefill):
    expected = alone(hybrid)
    routing = hybrid.route(**batch([prompt + prefill for prompt in PROMPTS]))
    torch.testing.assert_close(routing.thinking_probability, expected, rtol=0, atol=1e-5)
    without_header = hybrid.route(**batch([prompt[: -len(HEADER)] for prompt in PROMPTS]))
    torch.testing.assert_close(without_header.thinking_probability, expected, rtol=0, atol=1e-5)


def test_closed_assistant_turn_is_read(hybrid):
    def history(word):
        return [prompt_ids(0) + [word, TURN_END] + prompt_ids(1, images=0)]

    one, two = (hybrid.route(**batch(history(word), seeds=[0])).thinking_probability for word in (33, 44))
    assert (one - two).abs() > 1e-5


def test_every_threshold(hybrid):
    inputs = batch(PROMPTS)
    assert hybrid.route(**inputs, thinking_threshold=0.0).thinking.tolist() == [1] * 4
    assert hybrid.route(**inputs, thinking_threshold=1.0).thinking.tolist() == [0] * 4
    probability = hybrid.route(**inputs).thinking_probability
    at_the_value = hybrid.route(**inputs, thinking_threshold=probability[0].item()).thinking[0]
    assert at_the_value == 1


def test_route_runs_no_layer_past_the_router(hybrid):
    layers = hybrid.model.language_model.layers
    ran = []
    for index, layer in enumerate(layers):
        layer.register_forward_hook(lambda *_, index=index: ran.append(index))
    hybrid.route(**batch(PROMPTS))
    assert ran == list(range(hybrid.config.router_layer))


def test_route_leaves_no_trace(hybrid):
    hybrid.model.rope_deltas = marker = torch.tensor([[7]])
    hybrid.route(**batch(PROMPTS))
    assert hybrid.model.rope_deltas is marker


def test_router_computes_in_fp32_in_a_bf16_model(hybrid, tmp_path):
    hybrid.save_pretrained(tmp_path)
    model = type(hybrid).from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert model.lm_head.weight.dtype == torch.bfloat16
    assert {p.dtype for p in model.model.language_model.router.parameters()} == {torch.float32}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.route(**batch(PROMPTS)).logits.dtype == torch.float32
