"""Thought and answer, whole and as a stream, with every opening that can stand in the prompt."""

import itertools

import pytest

from hf_metis_home.answers import opening_text, parse_completion, render_completion
from hf_metis_home.serving.answer_split import split_answer

from ..fixtures_text import byte_level_processor, word_level_processor


TEXTS = [
    ("<think>17 + 4</think><answer>21</answer>", ("17 + 4", "21")),
    ("<think></think><answer>yes</answer>", ("", "yes")),
    (" \n<think>a < b</think>\n<answer>a</answer>\n", ("a < b", "a")),
    ("<think>so far", ("so far", "")),
    ("<think>so far</thi", ("so far</thi", "")),
    ("<think>a</think>", ("a", "")),
    ("<think>a</think>b", ("a", "b")),
    ("<think>a</think><answer>b", ("a", "b")),
    ("<think>a</think><answer>b</ans", ("a", "b</ans")),
    ("<think>a</think><answer>b</answer> and <answer>c</answer>", ("a", "b</answer> and <answer>c")),
    ("<think>a</think><answer></answer>", ("a", "")),
    ("<think>a <think> b</think><answer>c</answer>", ("a <think> b", "c")),
    ("no tags", ("", "no tags")),
    ("<thin", ("", "<thin")),
    ("<b>bold</b>", ("", "<b>bold</b>")),
    ("", ("", "")),
]


@pytest.mark.parametrize(("text", "expected"), TEXTS)
def test_whole(text, expected):
    assert split_answer(text) == expected


@pytest.mark.parametrize(("text", "expected"), TEXTS)
def test_what_is_sent_is_never_taken_back(text, expected):
    """However a stream is cut, its parts only grow, and end with the whole but for a tag that was broken off."""
    states = [split_answer(text[:end], finished=False) for end in range(len(text) + 1)]
    for (thought, answer), (more_thought, more_answer) in itertools.pairwise(states):
        assert more_thought.startswith(thought) and more_answer.startswith(answer)
    for sent, whole in zip(states[-1], expected, strict=True):
        assert whole.startswith(sent) and whole[len(sent) :] in ("", "</thi", "</ans", "<thin")


@pytest.mark.parametrize("processor", [word_level_processor, byte_level_processor])
@pytest.mark.parametrize("thought", ["First I think", None])
def test_openings_in_the_prompt(processor, thought):
    text = render_completion(thought, "4")
    opening = opening_text(processor().tokenizer, thinking=thought is not None)
    assert opening and text.startswith(opening)
    reply = text.removeprefix(opening)  # what the engine generates
    assert split_answer(opening + reply) == (thought or "", "4")
    assert parse_completion(text).answer == "4"
