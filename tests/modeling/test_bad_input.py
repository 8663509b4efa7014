"""Every wrong argument is named, with its value, the reason and what to do, before any work."""

import pytest
import torch

from hf_metis_home.modeling import MetisHomeConfig

from .tiny import NON_THINKING_OPENING, batch, prompt_ids, text_config, tiny_hybrid


PROMPTS = [prompt_ids(0), prompt_ids(1)]


@pytest.fixture(scope="module")
def hybrid():
    return tiny_hybrid()


@pytest.mark.parametrize(
    ("thinking", "message"),
    [
        ("thinking", r"`thinking` is 'thinking', but must be True \(thinking branch\)"),
        (1, "`thinking` is 1, but must be True"),
        ([True], r"`thinking` has shape \(1,\), but the batch has 2 rows"),
        ([True, False, True], r"`thinking` has shape \(3,\), but the batch has 2 rows"),
        ([True, "slow"], r"`thinking\[1\]` is 'slow'"),
        (torch.tensor([0.2, 0.7]), "`thinking` has dtype torch.float32"),
        (torch.tensor([[True], [False]]), r"`thinking` has shape \(2, 1\)"),
    ],
)
def test_thinking(hybrid, thinking, message):
    for call in (hybrid.generate, torch.no_grad()(hybrid)):
        with pytest.raises(ValueError, match=message):
            call(**batch(PROMPTS), thinking=thinking)


@pytest.mark.parametrize("threshold", [-0.1, 1.5, "0.5", True])
def test_threshold(hybrid, threshold):
    for call in (hybrid.generate, hybrid.route, torch.no_grad()(hybrid)):
        with pytest.raises(ValueError, match="`thinking_threshold` is .*in \\[0, 1\\]"):
            call(**batch(PROMPTS), thinking_threshold=threshold)


def test_threshold_with_forced_branch(hybrid):
    with pytest.raises(ValueError, match="`thinking_threshold=0.3` has no effect"):
        hybrid.generate(**batch(PROMPTS), thinking=True, thinking_threshold=0.3)


def test_opening_that_contradicts(hybrid):
    inputs = batch([prompt_ids(0), prompt_ids(1) + NON_THINKING_OPENING])
    with pytest.raises(ValueError, match="forces the thinking branch in row 1, but the prompt of that row ends with"):
        hybrid.generate(**inputs, thinking=True)


def test_unknown_keyword(hybrid):
    with pytest.raises(ValueError, match="thinking_treshold"):
        hybrid.generate(**batch(PROMPTS), thinking_treshold=0.3)


def test_training_without_prompt_mask(hybrid):
    with pytest.raises(ValueError, match="gradients are on, and there is no `prompt_mask`"):
        hybrid(**batch(PROMPTS))


def test_prompt_mask_of_another_shape(hybrid):
    with pytest.raises(ValueError, match=r"`prompt_mask` has shape \(2, 3\), but the input has \(2, 19\)"):
        hybrid(**batch(PROMPTS), thinking=True, prompt_mask=torch.ones(2, 3))


def test_prompt_of_padding_only(hybrid):
    inputs = batch([prompt_ids(0, images=0), []])
    for call in (hybrid.route, hybrid.generate):
        with pytest.raises(ValueError, match="`attention_mask` is all zero in row 1"):
            call(**inputs)


def test_image_features_that_do_not_match(hybrid):
    inputs = batch(PROMPTS)
    inputs["input_ids"][0, 4] = 30
    with pytest.raises(ValueError, match="Image features and image tokens do not match"):
        hybrid.generate(**inputs)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"thinking_threshold": 1.2}, "`thinking_threshold` is 1.2"),
        ({"thinking_threshold": "half"}, "`thinking_threshold` is 'half'"),
        ({"answer_format": {"thinking_tags": ["<think>", "</think>"]}}, "`answer_format` is .* must be .*answer_tags"),
        ({"answer_format": {"thinking_tags": ["<think>"], "answer_tags": None}}, "`answer_format` is"),
        ({"answer_format": {"thinking_tags": ["<think>", ""], "answer_tags": None}}, "`answer_format` is"),
        ({"answer_format": {"thinking_tags": "<>", "answer_tags": None}}, "`answer_format` is"),
        ({"branch_kind": "moe"}, "`branch_kind` is 'moe'"),
        (
            {"text_config": text_config(), "router_layer": 4},
            "`router_layer` is 4, .* below the number of",
        ),
        ({"router_layer": -1}, "`router_layer` is -1"),
        ({"router_pooling": "max"}, "`router_pooling` is 'max'"),
        ({"router_hidden_size": 0}, "`router_hidden_size` is 0"),
        ({"text_config": text_config(router_layer=1)}, "belong in the top level: .* again .* `metis-home upcycle`"),
    ],
)
def test_config(fields, message):
    with pytest.raises(ValueError, match=message):
        MetisHomeConfig(**fields)


def test_config_reports_all_errors_at_once():
    with pytest.raises(ValueError, match="(?s)branch_kind.*router_layer"):
        MetisHomeConfig(text_config=text_config(), branch_kind="moe", router_layer=9)
