"""The miniature's tokenizer and processor: nothing is lost between text and tokens, and both survive being saved."""

from string import ascii_lowercase

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, Qwen2_5_VLProcessor

from hf_metis_home import AnswerFormat
from hf_metis_home.miniature.model import CHAT_TEMPLATE, build_miniature
from hf_metis_home.miniature.tokenizer import PHRASES, SPECIAL_TOKENS, build_tokenizer
from tests.fixtures_text import word_level_processor


ANSWERS = {
    "direct": AnswerFormat().render(None, "yes"),
    "letters": AnswerFormat().render(None, "a b z q"),
    "caption": AnswerFormat().render(None, "teal rectangle"),
    "steps": AnswerFormat().render("6604;6606;6+6=2;2-0=2;2*8=6;", "6"),
    "prose": AnswerFormat().render("read the top digit, there is no letters: 4 / (2 - 1) > 3.\nyes", "red circle"),
}


@pytest.mark.parametrize("text", ANSWERS.values(), ids=ANSWERS)
def test_round_trip(text):
    tokenizer = build_tokenizer()
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_tags_and_the_system_prompt_are_one_token_each():
    tokenizer = build_tokenizer()
    for phrase in PHRASES:
        assert len(tokenizer(phrase)["input_ids"]) == 1
        assert tokenizer.decode(tokenizer(phrase)["input_ids"], skip_special_tokens=True) == phrase
    assert tokenizer.tokenize("<think></think><answer>7") == ["<think>", "</think>", "<answer>", "7"]


def test_special_tokens_vanish_from_decoded_answers():
    tokenizer = build_tokenizer()
    text = "<answer>no</answer><|im_end|><|endoftext|>"
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == "<answer>no</answer>"
    assert all(tokenizer.added_tokens_decoder[tokenizer.convert_tokens_to_ids(name)].special for name in SPECIAL_TOKENS)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")


def test_every_letter_and_digit_is_known():
    tokenizer = build_tokenizer()
    for text in (" ".join(ascii_lowercase), "0123456789"):
        assert tokenizer.unk_token_id not in tokenizer(text)["input_ids"]
    assert tokenizer.tokenize("xyzzy") == [tokenizer.unk_token]


def test_saved_processor_is_the_same(tmp_path):
    processor = word_level_processor()
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(loaded, Qwen2_5_VLProcessor)
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "is it red?"}]}]
    first, second = (
        each(
            text=[each.apply_chat_template(messages, add_generation_prompt=True)],
            images=[Image.new("RGB", (64, 64), "red")],
            return_tensors="pt",
        )
        for each in (processor, loaded)
    )
    assert first.keys() == second.keys() == {
        "input_ids", "attention_mask", "mm_token_type_ids", "pixel_values", "image_grid_thw"
    }  # fmt: skip
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert loaded.tokenizer.decode(first["input_ids"][0]) == processor.tokenizer.decode(first["input_ids"][0])


def test_the_template_is_the_published_one_and_prompts_are_short():
    processor = word_level_processor()
    assert processor.chat_template == CHAT_TEMPLATE.read_text()
    text = processor.apply_chat_template([{"role": "user", "content": "is it red?"}], add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nis it red?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    ids = processor.tokenizer(text)["input_ids"]
    assert len(ids) == 15 and processor.tokenizer.unk_token_id not in ids
    assert processor.tokenizer.decode(ids) == text


def test_miniature():
    random_state = torch.random.get_rng_state()
    (model, processor), (same, _), (other, _) = build_miniature(0), build_miniature(0), build_miniature(1)
    assert torch.equal(torch.random.get_rng_state(), random_state)
    assert 1.0e6 < model.num_parameters() < 1.4e6
    weights, others = model.state_dict(), other.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in same.state_dict().items())
    assert any(not torch.equal(weights[name], others[name]) for name in weights)

    ids = model.config
    tokenizer = processor.tokenizer
    for name in ("image_pad", "video_pad", "vision_start", "vision_end"):
        token_id = getattr(ids, f"{name.removesuffix('_pad')}_token_id")
        assert tokenizer.convert_ids_to_tokens(token_id) == f"<|{name}|>"
    for config in (model.config, model.config.text_config, model.generation_config):
        assert (config.eos_token_id, config.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)

    inputs = processor(
        text=["<|vision_start|><|image_pad|><|vision_end|>is it red?"],
        images=[Image.new("RGB", (64, 64), "red")],
        return_tensors="pt",
    )
    assert (inputs["input_ids"] == ids.image_token_id).sum() == 4
    assert inputs["image_grid_thw"].tolist() == [[1, 4, 4]]
    generated = model.generate(**inputs, max_new_tokens=3)
    assert generated.shape[1] > inputs["input_ids"].shape[1]
