"""How training answers begin, in tokens."""

import pytest
from hypothesis import given, settings

from hf_metis_home.answers import closing_token_ids, opening_text, opening_token_ids
from tests.fixtures_text import byte_level_processor, word_level_processor

from .test_format import PLAIN, answers, formats, thoughts


TOKENIZERS = {"byte-level": byte_level_processor().tokenizer, "word-level": word_level_processor().tokenizer}


@pytest.mark.parametrize("kind", TOKENIZERS)
@formats
@given(thought=thoughts.filter(bool), answer=answers)
@settings(max_examples=100, deadline=None)
def test_every_answer_begins_with_the_opening_of_its_mode(answer_format, kind, thought, answer):
    tokenizer = TOKENIZERS[kind]
    for thinking, text in ((True, answer_format.render(thought, answer)), (False, answer_format.render(None, answer))):
        opening = opening_token_ids(tokenizer, thinking, answer_format)
        assert tokenizer(text, add_special_tokens=False)["input_ids"][: len(opening)] == opening


@pytest.mark.parametrize(
    ("kind", "thinking", "text"),
    [
        ("word-level", True, "<think>"),
        ("word-level", False, "<think></think><answer>"),
        ("byte-level", True, "<think"),
        ("byte-level", False, "<think></think><answer"),
    ],
)
def test_openings_are_as_long_as_they_can_be(kind, thinking, text):
    # The byte-level tokenizer joins the ">" of a tag with what follows, so there the opening stops before it.
    assert opening_text(TOKENIZERS[kind], thinking) == text


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_openings_tell_the_modes_apart(kind):
    thinking, direct = (opening_token_ids(TOKENIZERS[kind], mode) for mode in (True, False))
    assert thinking and len(direct) > len(thinking) and thinking != direct[: len(thinking) + 1]


@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        ("word-level", ["<think>\n", "<think>\n\n</think>\n\n", "\n</think>\n\n"]),
        ("byte-level", ["<think>\n", "<think>\n\n</think>\n\n", "\n</think>\n\n"]),
    ],
)
def test_openings_without_answer_tags_are_those_of_qwen3(kind, texts):
    tokenizer = TOKENIZERS[kind]
    closing = tokenizer.decode(closing_token_ids(tokenizer, PLAIN))
    assert [opening_text(tokenizer, True, PLAIN), opening_text(tokenizer, False, PLAIN), closing] == texts
