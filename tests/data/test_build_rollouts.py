"""Answers drawn from a real model: the same every time, also after a stop, and never with image tokens."""

import pytest
import torch

from hf_metis_home.answers import AnswerFormat
from hf_metis_home.conversion import upcycle
from hf_metis_home.data.rollouts import NEVER, ModelRollouts, seed_of, with_system_prompt
from hf_metis_home.miniature.model import build_miniature
from tests.data.prompts_common import prompt_set


@pytest.fixture(scope="module")
def miniature():
    return build_miniature()


def rollouts(miniature, **changes):
    return ModelRollouts(*miniature, "miniature", **{"max_new_tokens": 6, "batch_size": 2} | changes)


def test_the_same_again_also_where_a_part_is_there_already(miniature):
    prompts, source = prompt_set({"sums": 5}), rollouts(miniature)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = dict(source.roll_out(prompts, range(5), set(), 3))
    assert torch.equal(before, torch.get_rng_state())
    assert sorted(first) == list(range(5)) and all(len(texts) == 3 for texts in first.values())
    assert len({text for texts in first.values() for text in texts}) > 5
    torch.manual_seed(2)
    rest = dict(source.roll_out(prompts, range(5), {0, 1, 2}, 3))
    assert sorted(rest) == [2, 3, 4] and rest == {index: first[index] for index in rest}
    assert dict(rollouts(miniature, seed=1).roll_out(prompts, range(5), set(), 3)) != first
    assert dict(rollouts(miniature, system_prompt="a").roll_out(prompts, range(5), set(), 3)) != first


def test_no_image_and_no_padding_tokens_are_drawn(miniature, monkeypatch):
    model, processor = miniature
    vocabulary = processor.tokenizer.get_vocab()
    never = [vocabulary[token] for token in NEVER] + [processor.tokenizer.pad_token_id]

    def hooked(module, inputs, output):
        output[..., never] += 100.0
        return output

    handle = model.lm_head.register_forward_hook(hooked)
    decoded = []
    monkeypatch.setattr(
        type(processor), "batch_decode", lambda self, ids, **_: decoded.append(ids) or ["x"] * len(ids), raising=False
    )
    try:
        list(rollouts(miniature).roll_out(prompt_set({"sums": 2}), range(2), set(), 4))
    finally:
        handle.remove()
    ends = decoded[0] == processor.tokenizer.eos_token_id
    answered = ends.cumsum(dim=1) - ends.int() == 0  # padding behind the end is no answer
    assert not torch.isin(decoded[0][answered], torch.tensor(never)).any()


def test_a_two_branch_model_answers_with_its_thinking_branch(miniature, monkeypatch):
    hybrid, processor = upcycle(miniature[0], processor=miniature[1]), miniature[1]
    seen = []
    generate = type(hybrid).generate
    monkeypatch.setattr(
        type(hybrid), "generate", lambda self, **inputs: seen.append(inputs["thinking"]) or generate(self, **inputs)
    )
    source = ModelRollouts(hybrid, processor, "hybrid", max_new_tokens=3)
    assert len(dict(source.roll_out(prompt_set({"sums": 3}), range(3), set(), 2))) == 3
    assert seen == [True]


def test_the_answer_format_is_the_models_own(miniature):
    assert rollouts(miniature).answer_format == AnswerFormat()
    hybrid = upcycle(miniature[0], processor=miniature[1])
    hybrid.config.answer_format = {"thinking_tags": ["<t>", "</t>"], "answer_tags": None}
    assert ModelRollouts(hybrid, miniature[1], "hybrid").answer_format == AnswerFormat(("<t>", "</t>"), None)


def test_a_system_prompt_takes_the_place_of_another():
    prompt = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]
    assert with_system_prompt(prompt, None) is prompt
    assert with_system_prompt(prompt, "c") == [{"role": "system", "content": "c"}, {"role": "user", "content": "b"}]


def test_seeds_differ_and_stay():
    assert seed_of(0, 1) == seed_of(0, 1) and len({seed_of(0, i) for i in range(100)}) == 100
