"""Answers in batches are the answers alone."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from hf_metis_home.conversion import upcycle
from hf_metis_home.data import prompt_inputs
from hf_metis_home.evaluation.generation import generate_answers
from tests.fixtures_text import byte_level_processor, tiny_dense, tiny_word_level, word_level_processor


def image(shade: int) -> Image.Image:
    return Image.new("RGB", (56, 56), (shade, 90, 60))


def row(question: str, *shades: int, **changes) -> dict:
    prompt = [{"role": "user", "content": question}]
    return {
        "prompt": prompt, "images": [image(shade) for shade in shades], "solution": "4", "task": "test", **changes
    }  # fmt: skip


ROWS = [row("read the digits", 10), row("is it red?"), row("what shape is in the image?", 200, 30), row("is it", 99)]


@pytest.fixture(scope="module")
def hybrid():
    dense, processor = tiny_word_level()
    model = upcycle(dense, processor, thinking_model=tiny_dense(processor, seed=1), router_hidden_size=8)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        torch.nn.init.normal_(model.model.language_model.router.score.weight, std=2.0)
    model.config.thinking_threshold = 0.58  # among the probabilities of the rows
    return model, processor


def answers(model, processor, rows=ROWS, **options):
    return generate_answers(model, processor, prompt_inputs(processor, rows), **options)


@pytest.mark.parametrize("thinking", [None, True, False])
def test_batches_change_nothing(hybrid, thinking):
    options = {"thinking": thinking, "max_new_tokens": 5}
    together = answers(*hybrid, **options)
    for one, other in zip(together, [answers(*hybrid, [row], **options)[0] for row in ROWS], strict=True):
        assert replace(one, thinking_probability=None) == replace(other, thinking_probability=None)
        assert (one.thinking_probability is None) == (thinking is not None)
        assert one.thinking_probability == pytest.approx(other.thinking_probability, abs=1e-5)
    assert thinking is None or {answer.thinking for answer in together} == {thinking}


def test_both_branches_answer_where_the_router_chooses(hybrid):
    assert {answer.thinking for answer in answers(*hybrid, max_new_tokens=2)} == {True, False}


def test_a_dense_model_answers_as_it_will():
    model, processor = tiny_word_level()
    found = answers(model, processor, max_new_tokens=3)
    assert all(answer.tokens <= 3 and answer.thinking_probability is None for answer in found)
    with pytest.raises(ValueError, match=r"`thinking=True` forces a branch, but the model is dense \(qwen2_5_vl\)"):
        answers(model, processor, max_new_tokens=3, thinking=True)


@pytest.mark.parametrize("make_processor", [word_level_processor, byte_level_processor])
def test_images_stand_where_training_puts_them(make_processor):
    from trl.data_utils import prepare_multimodal_messages

    processor = make_processor()
    system = {"role": "system", "content": "read"}
    query, answer = {"role": "user", "content": "is it red?"}, {"role": "assistant", "content": "yes"}
    parts = [{"type": "text", "text": "is "}, {"type": "image"}, {"type": "text", "text": "red?"}]
    placed = {"role": "user", "content": parts}
    for prompt, count in (
        ([query], 2), ([system, query], 1), ([query, answer, query], 1), ([placed, answer, placed], 2), ([query], 0)
    ):  # fmt: skip
        images = [image(10 * number) for number in range(count)]
        inputs = prompt_inputs(processor, [{"prompt": prompt, "images": images}])
        expected = processor.apply_chat_template(
            prepare_multimodal_messages(prompt, images), add_generation_prompt=True, tokenize=True, return_dict=True,
            return_tensors="pt",
        )  # fmt: skip
        assert inputs["input_ids"].equal(expected["input_ids"])
        assert not count or inputs["pixel_values"].equal(expected["pixel_values"])
