"""Whatever the processor makes of a conversation, the hybrid reads it as the dense model does, alone or in a batch."""

import numpy as np
import pytest
import torch
from PIL import Image

from hf_metis_home.conversion import upcycle
from tests.fixtures_text import tiny_dense, word_level_processor


def image(width: int, height: int, shade: int = 90) -> dict:
    return {"type": "image", "image": Image.new("RGB", (width, height), (shade, 30, 200 - shade))}


def video(frames: int, shade: int = 10) -> dict:
    pixels = np.full((frames, 56, 56, 3), shade, dtype=np.uint8)
    pixels[:, :28] += np.arange(frames, dtype=np.uint8)[:, None, None, None] * 20
    return {"type": "video", "video": pixels}


def text(words: str) -> dict:
    return {"type": "text", "text": words}


def user(*parts: dict) -> dict:
    return {"role": "user", "content": list(parts)}


CONVERSATIONS = {
    "text": [user(text("is it red?"))],
    "image": [user(image(56, 56), text("what color is the shape?"))],
    "three images": [user(image(56, 56), image(90, 40, 10), text("is it"), image(30, 70, 150), text("red?"))],
    "one pixel": [user(image(1, 1), text("is it red?"))],
    "a line": [user(image(150, 1), text("is it red?"))],
    "video": [user(video(4), text("is it red?"))],
    "video and image": [user(video(6, 40), image(56, 56), text("read the digits"))],
    "system prompt": [{"role": "system", "content": [text("read the letters")]}, user(text("is it red?"))],
    "three turns": [
        user(image(56, 56), text("is it red?")),
        {"role": "assistant", "content": [text("<think></think><answer>yes</answer>")]},
        user(image(56, 56, 10), text("what shape is in the image?")),
    ],
    "long": [user(image(56, 56), text("read the digits " * 500))],
}


@pytest.fixture(scope="module")
def models():
    processor = word_level_processor()
    dense = tiny_dense(processor)
    hybrids = []
    for router_layer in (0, 1):
        hybrid = upcycle(dense, processor, router_layer=router_layer, router_hidden_size=8)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            torch.nn.init.normal_(hybrid.model.language_model.router.score.weight, std=2.0)
        hybrids.append(hybrid)
    return processor, dense, hybrids


def inputs_of(processor, *names: str, side: str = "left"):
    return processor.apply_chat_template(
        [CONVERSATIONS[name] for name in names], add_generation_prompt=True, tokenize=True, return_dict=True,
        return_tensors="pt", processor_kwargs={"padding": True, "padding_side": side},
    )  # fmt: skip


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_reads_what_the_dense_model_reads(models, name):
    processor, dense, hybrids = models
    inputs = inputs_of(processor, name)
    bare = {key: value for key, value in inputs.items() if key != "mm_token_type_ids"}
    with torch.no_grad():
        expected = dense(**inputs).logits
        for hybrid in hybrids:
            for thinking in (True, False, None):
                assert torch.equal(hybrid(**inputs, thinking=thinking).logits, expected)
            # Derived where they are missing: without them the dense model numbers images like text.
            assert torch.equal(hybrid(**bare, thinking=True).logits, expected)
    tokens = dense.generate(**inputs, max_new_tokens=4, do_sample=False)
    for hybrid in hybrids:
        assert torch.equal(hybrid.generate(**inputs, max_new_tokens=4, do_sample=False), tokens)


@pytest.mark.parametrize("side", ["left", "right"])
def test_every_mix_is_routed_and_answered_like_its_rows(models, side):
    processor, dense, hybrids = models
    names = list(CONVERSATIONS)
    together = inputs_of(processor, *names, side=side)
    pattern = [index % 2 == 0 for index in range(len(names))]
    with torch.no_grad():
        expected = dense(**together).logits
        for hybrid in hybrids:
            probability = hybrid.route(**together).thinking_probability
            alone = torch.cat([hybrid.route(**inputs_of(processor, name)).thinking_probability for name in names])
            torch.testing.assert_close(probability, alone, atol=1e-5, rtol=0)
            assert alone.std() > 1e-3  # a router that sees no difference would pass the line above
            assert torch.equal(hybrid(**together, thinking=True).logits, expected)
            kept = together["attention_mask"].bool()
            mixed = hybrid(**together, thinking=pattern).logits
            torch.testing.assert_close(mixed[kept], expected[kept], atol=1e-5, rtol=0)


def test_a_row_of_padding_alone_is_refused(models):
    processor, _, (hybrid, _) = models
    inputs = inputs_of(processor, "text", "image")
    inputs["attention_mask"][0] = 0
    for call in (hybrid.route, hybrid.generate):
        with pytest.raises(ValueError, match="`attention_mask` is all zero in row 0"):
            call(**inputs)
