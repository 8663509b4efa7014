"""`pipeline("image-text-to-text")` and the processor say the same as the model called by hand."""

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, pipeline

from hf_metis_home.conversion import save_hub_folder, upcycle
from hf_metis_home.modeling import MetisHomeForConditionalGeneration
from tests.fixtures_text import byte_level_processor, tiny_dense, word_level_processor


PROCESSORS = {"byte level": byte_level_processor, "word level": word_level_processor}
MESSAGES = [
    {
        "role": "user",
        "content": [
            {"type": "image", "image": Image.new("RGB", (56, 56), (200, 30, 30))},
            {"type": "text", "text": "what color is the shape?"},
        ],
    }
]
OPTIONS = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}


@pytest.fixture(scope="module", params=PROCESSORS)
def folder(request, tmp_path_factory):
    processor = PROCESSORS[request.param]()
    sources = {"thinking_model": tiny_dense(processor, seed=1), "non_thinking_model": tiny_dense(processor, seed=2)}
    model = upcycle(tiny_dense(processor), processor, **sources)
    return save_hub_folder(model, processor, tmp_path_factory.mktemp("hub") / "hybrid")


def by_hand(folder, template_options=None, **options) -> str:
    model = MetisHomeForConditionalGeneration.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    inputs = processor.apply_chat_template(
        MESSAGES, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
        **(template_options or {}),
    )  # fmt: skip
    output = model.generate(**inputs, **OPTIONS, **options)
    return processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def test_every_way_to_choose(folder):
    pipe = pipeline("image-text-to-text", model=str(folder), trust_remote_code=True)

    def piped(template_options=None, **options) -> str:
        found = pipe(
            text=MESSAGES, generate_kwargs={**OPTIONS, **options}, return_full_text=False, **(template_options or {})
        )
        return found[0]["generated_text"]

    by_branch = {}
    for thinking in (True, False):
        by_branch[thinking] = piped(thinking=thinking)
        assert by_branch[thinking] == by_hand(folder, thinking=thinking)
        opened = {"enable_thinking": thinking}
        assert piped(opened) == by_hand(folder, opened) == by_hand(folder, opened, thinking=thinking)
        # A router that has learned nothing says 0.5, so the threshold decides.
        assert piped(thinking_threshold=0.4 if thinking else 0.6) == by_branch[thinking]
    assert by_branch[True] != by_branch[False]
    assert piped({"enable_thinking": True}, max_thinking_tokens=2) == by_hand(
        folder, {"enable_thinking": True}, max_thinking_tokens=2
    )


def test_batches_of_conversations(folder):
    pipe = pipeline("image-text-to-text", model=str(folder), trust_remote_code=True)
    found = pipe(text=[MESSAGES, MESSAGES], generate_kwargs={**OPTIONS, "thinking": False}, return_full_text=False)
    assert [each[0]["generated_text"] for each in found] == [by_hand(folder, thinking=False)] * 2


def test_stop_strings():
    # With the byte-level tokenizer alone: transformers cannot embed the vocabulary of a word-level one.
    processor = byte_level_processor()
    model = upcycle(tiny_dense(processor), processor, non_thinking_model=tiny_dense(processor, seed=2))
    inputs = processor.apply_chat_template(
        MESSAGES, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    start, options = inputs["input_ids"].shape[1], {"max_new_tokens": 12, "do_sample": False}
    for thinking in (True, False):
        free = model.generate(**inputs, **options, thinking=thinking)
        pieces = [processor.decode(token) for token in free[0, start:]]
        stop = next(piece for piece in pieces[:-1] if piece.isascii())  # others are parts of a character
        stopped = model.generate(
            **inputs, **options, thinking=thinking, stop_strings=[stop], tokenizer=processor.tokenizer
        )
        assert stopped.tolist() == free[:, : start + pieces.index(stop) + 1].tolist()


def test_several_turns_are_routed_by_the_whole_prompt(folder):
    model = MetisHomeForConditionalGeneration.from_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.nn.init.normal_(model.model.language_model.router.score.weight, std=2.0)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    answer = {"role": "assistant", "content": [{"type": "text", "text": "<think>7</think><answer>red</answer>"}]}
    question = {"role": "user", "content": [{"type": "text", "text": "is it red?"}]}

    def probability(messages, **options) -> float:
        inputs = processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", **options
        )
        return model.route(**inputs).thinking_probability.item()

    whole = [*MESSAGES, answer, question]
    assert probability(whole) != probability([question])
    # The opening of the answer to come is no router input; earlier answers are.
    for thinking in (True, False):
        assert probability(whole, enable_thinking=thinking) == pytest.approx(probability(whole), abs=1e-6)
