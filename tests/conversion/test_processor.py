"""The template: unset it is the source's, set it opens the answer with the tokens that training answers open with."""

import logging

import pytest

from hf_metis_home.answers import AnswerFormat
from hf_metis_home.conversion import prepare_processor
from hf_metis_home.modeling import MetisHomeConfig

from ..fixtures_text import byte_level_processor, word_level_processor


PROCESSORS = {"byte_level": byte_level_processor, "word_level": word_level_processor}
CONVERSATIONS = {
    "plain": [{"role": "user", "content": "What is 7 - 3?"}],
    "system": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "yes"}],
    "image": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what color?"}]}],
    "history": [
        {"role": "user", "content": "7"},
        {"role": "assistant", "content": "<think>a</think><answer>3</answer>"},
        {"role": "user", "content": "yes"},
    ],
}


@pytest.fixture(params=PROCESSORS)
def prepared(request):
    source, processor, config = PROCESSORS[request.param](), PROCESSORS[request.param](), MetisHomeConfig()
    prepare_processor(processor, config)
    return source, processor, config


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("kwargs", [{}, {"add_generation_prompt": True}, {"add_vision_id": True}])
def test_unset_renders_the_source(prepared, conversation, kwargs):
    source, processor, _ = prepared
    expected = source.apply_chat_template(CONVERSATIONS[conversation], tokenize=False, **kwargs)
    assert processor.apply_chat_template(CONVERSATIONS[conversation], tokenize=False, **kwargs) == expected
    if "add_generation_prompt" not in kwargs:
        for flag in (True, False):  # an opening belongs to the answer to come, never to history
            found = processor.apply_chat_template(
                CONVERSATIONS[conversation], tokenize=False, enable_thinking=flag, **kwargs
            )
            assert found == expected


def test_a_thought_apart_from_the_answer_is_not_rendered(prepared):
    """How the ecosystem hands a parsed answer back: Qwen3's template drops such thoughts from the history, too."""
    _, processor, _ = prepared
    plain = [
        {"role": "user", "content": "7"},
        {"role": "assistant", "content": "3"},
        {"role": "user", "content": "yes"},
    ]
    apart = [message | ({"reasoning_content": "a"} if message["role"] == "assistant" else {}) for message in plain]
    found = [processor.apply_chat_template(m, tokenize=False, add_generation_prompt=True) for m in (plain, apart)]
    assert found[0] == found[1] and "3" in found[0]


@pytest.mark.parametrize("thinking", [True, False])
@pytest.mark.parametrize("answer", ["yes", "7", "(x)", " yes", "\nyes", ">b>", "-1", "a, b"])
def test_forced_opening_is_token_equal_to_training_rows(prepared, thinking, answer):
    _, processor, config = prepared
    messages = CONVERSATIONS["plain"]
    prompt = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    completion = AnswerFormat().render(answer if thinking else None, answer)
    # A trainer tokenises prompt and completion apart; a user tokenises prompt and opening together.
    tokenizer = processor.tokenizer
    row = tokenizer(prompt)["input_ids"] + tokenizer(completion)["input_ids"]
    forced = processor.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, enable_thinking=thinking
    )
    opened = tokenizer(forced)["input_ids"]
    assert row[: len(opened)] == opened
    opening = config.thinking_opening_ids if thinking else config.non_thinking_opening_ids
    assert opened == tokenizer(prompt)["input_ids"] + opening


def test_tags_are_several_tokens_where_it_matters():
    tokenizer = byte_level_processor().tokenizer
    assert len(tokenizer("<think>")["input_ids"]) > 1
    assert "><" in tokenizer.tokenize("<think></think><answer>yes</answer>")  # two tags share a token
    assert ">yes" in tokenizer.tokenize("<answer>yes")  # a tag's end is glued to the word


def test_header_and_end_of_turn(prepared):
    _, processor, config = prepared
    assert processor.tokenizer.decode(config.assistant_header_ids) == "<|im_start|>assistant\n"
    assert processor.tokenizer.convert_ids_to_tokens(config.end_of_turn_id) == "<|im_end|>"


def test_prepared_twice_is_prepared_once(prepared):
    _, processor, config = prepared
    template = processor.chat_template
    prepare_processor(processor, config)
    assert processor.chat_template == template


def test_unknown_template_is_kept_with_a_warning(caplog):
    processor = byte_level_processor()
    processor.chat_template = template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[a]{% endif %}"
    )
    config = MetisHomeConfig()
    with caplog.at_level(logging.WARNING):
        prepare_processor(processor, config)
    assert processor.chat_template == template
    assert "has no `enable_thinking`" in caplog.text
    assert processor.tokenizer.decode(config.assistant_header_ids) == "[a]"


def test_the_answer_format_is_written_and_openings_follow_it(prepared, tmp_path):
    source, processor, config = prepared
    assert config.answer_format == {"thinking_tags": ["<think>", "</think>"], "answer_tags": ["<answer>", "</answer>"]}
    assert AnswerFormat.of(config) == AnswerFormat()
    plain = MetisHomeConfig(answer_format={"thinking_tags": ["<think>", "</think>"], "answer_tags": None})
    prepare_processor(source, plain)
    plain.save_pretrained(tmp_path)
    plain = MetisHomeConfig.from_pretrained(tmp_path)
    assert AnswerFormat.of(plain) == AnswerFormat(answer_tags=None)
    decode = source.tokenizer.decode
    assert decode(plain.non_thinking_opening_ids) == "<think>\n\n</think>\n\n"
    assert decode(plain.thinking_closing_ids) == "\n</think>\n\n"
    messages = CONVERSATIONS["plain"]
    prompt = source.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, enable_thinking=True)
    assert prompt.endswith("<|im_start|>assistant\n<think>\n")
