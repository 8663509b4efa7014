"""The answer format: written and read back, read from anything, and opened as training answers begin."""

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_metis_home.answers import Completion, opening_text, opening_token_ids, parse_completion, render_completion
from hf_metis_home.answers.format import TAGS, shown_parts
from tests.fixtures_text import byte_level_processor, word_level_processor


TOKENIZERS = {"byte-level": byte_level_processor().tokenizer, "word-level": word_level_processor().tokenizer}

without_tags = st.text(max_size=60).filter(lambda text: not any(tag in text for tag in TAGS))
# Text that likes to stand where a byte-level BPE joins it to the end of a tag.
near_tags = st.text(st.sampled_from("<>/ \n.7a(=-é中\\$\"'|thinkanswer"), max_size=30).filter(
    lambda text: not any(tag in text for tag in TAGS)
)
thoughts = st.one_of(without_tags, near_tags)
answers = thoughts.filter(str.strip)
# Pieces of the format in any order, whole and broken.
pieces = st.lists(st.sampled_from([*TAGS, "<think", "think>", "</", "answer>", "7", " ", "<", ">", "\n"]), max_size=25)


@given(thoughts, answers)
def test_what_is_rendered_reads_back(thought, answer):
    text = render_completion(thought, answer)
    assert parse_completion(text) == Completion(thought.strip(), answer.strip(), well_formed=True)


@given(answers)
def test_no_thought_and_an_empty_one_are_the_same_text(answer):
    assert (
        render_completion(None, answer) == render_completion("", answer) == f"<think></think><answer>{answer}</answer>"
    )


@given(thoughts, answers, st.data())
def test_an_opening_and_the_rest_read_back_like_the_whole(thought, answer, data):
    text = render_completion(thought, answer)
    cut = data.draw(st.integers(0, len(text)))
    assert parse_completion(text[cut:], opening=text[:cut]) == parse_completion(text)


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("name", ["thought", "answer"])
def test_a_tag_inside_is_refused(tag, name):
    fields = {"thought": "a", "answer": "b", name: f"x{tag}y"}
    with pytest.raises(ValueError, match=f"`{name}` contains '{tag}'.*Remove it"):
        render_completion(**fields)


@pytest.mark.parametrize("answer", ["", " ", "\n\t"])
def test_an_answer_needs_text(answer):
    with pytest.raises(ValueError, match="`answer` is .* needs text"):
        render_completion("a", answer)


@pytest.mark.parametrize(
    ("text", "thought", "answer"),
    [
        ("", None, None),
        ("7", None, None),
        ("<think>cut off", "cut off", None),
        ("<think>done</think>", "done", None),
        ("<think>done</think> so <answer>cut", "done", "cut"),
        ("<answer>7</answer>", None, "7"),
        ("</think><answer>7</answer>", None, "7"),
        ("<think>a</think><answer>7</answer> and more", "a", "7"),
        ("well <think>a</think><answer>7</answer>", "a", "7"),
        ("<think>a</think> thus <answer>7</answer>", "a", "7"),
        ("<think>a</think><answer> </answer>", "a", ""),
        ("<think>a</think><answer>1</answer><answer>2</answer>", "a", "2"),
        ("<think>a</think><answer>1<answer>2</answer>", "a", "2"),
        ("<think><think>a</think></think><answer>7</answer>", "<think>a", "7"),
        ("<think>a</think><think>b</think><answer>7</answer>", "a", "7"),
        ("<think>a <answer>1</answer></think><answer>2</answer>", "a <answer>1</answer>", "2"),
        ("<think>a <answer>1</answer>", "a <answer>1</answer>", None),
        ("<answer>1</answer><think>a</think>", "a", None),
        ("<THINK>a</THINK><answer>7</answer>", None, "7"),
    ],
)
def test_malformed_text_gives_what_can_be_had(text, thought, answer):
    assert parse_completion(text) == Completion(thought, answer, well_formed=False)


@given(pieces)
def test_well_formed_means_that_it_can_be_rendered(parts):
    text = "".join(parts)
    parsed = parse_completion(text)
    in_order = re.fullmatch(r"\s*<think>(.*?)</think>\s*<answer>(.*?\S.*?)</answer>\s*", text, re.DOTALL)
    each_once = [text.count(tag) for tag in TAGS] == [1, 1, 1, 1]
    assert parsed.well_formed == bool(in_order and each_once)
    if parsed.well_formed:
        assert parse_completion(render_completion(parsed.thought, parsed.answer)) == parsed


@pytest.mark.parametrize(
    "unit", ["<", "<think>", "</answer>", "<answer>", "<think><answer>", "</think", "(", " ", "\n"]
)
def test_long_hostile_text_takes_linear_time(unit):
    def seconds(length):
        text = "<think>" + unit * (length // len(unit))
        best = float("inf")
        for _ in range(3):
            start = time.process_time()  # what other processes take does not count
            parse_completion(text)
            best = min(best, time.process_time() - start)
        return best

    short, long = seconds(500_000), seconds(4_000_000)  # 8 times as long: 64 times the time if it were quadratic
    assert long < 1.0
    assert long < 25 * max(short, 1e-3)


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(thought=thoughts.filter(bool), answer=answers)
@settings(max_examples=100, deadline=None)
def test_every_answer_begins_with_the_opening_of_its_mode(kind, thought, answer):
    tokenizer = TOKENIZERS[kind]
    for thinking, text in ((True, render_completion(thought, answer)), (False, render_completion(None, answer))):
        opening = opening_token_ids(tokenizer, thinking)
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


WRITTEN = "<think>3 < 4, so\n3 + 4</think><answer>it is <b>7</b></answer>"


def test_what_is_shown_grows_and_never_shows_half_a_tag():
    before = ("", "")
    for end in range(len(WRITTEN) + 1):
        thought, answer = shown_parts(WRITTEN[:end])
        assert thought.startswith(before[0]) and answer.startswith(before[1])
        assert not any(tag[:length] in thought + answer for tag in TAGS for length in range(3, len(tag) + 1))
        before = thought, answer
    assert before == ("3 < 4, so\n3 + 4", "it is <b>7</b>")


@pytest.mark.parametrize(
    ("text", "opening", "parts"),
    [
        ("", "", ("", "")),
        ("It is 7.", "", ("", "It is 7.")),
        ("<think>why", "", ("why", "")),
        ("<think>why</think>It is 7.", "", ("why", "It is 7.")),
        ("<think></think><answer>7", "", ("", "7")),
        (">why</think><answer>7</answer>", "<think", ("why", "7")),
        ("3 < 4", "", ("", "3 < 4")),
        ("<think>why</thin", "", ("why", "")),
    ],
)
def test_what_is_shown(text, opening, parts):
    assert shown_parts(text, opening) == parts
