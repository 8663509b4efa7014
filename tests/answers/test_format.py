"""The answer format: written and parsed, also from a stream and from hostile text."""

import re
import time
from types import SimpleNamespace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hf_metis_home import AnswerFormat, Completion
from hf_metis_home.answers import opening_text
from tests.fixtures_text import byte_level_processor, word_level_processor


FORMAT, PLAIN = AnswerFormat(), AnswerFormat(answer_tags=None)
OTHER = AnswerFormat(("[THINK]\n", "\n[/THINK]"), ("$$", "$end$"))
TAGS = FORMAT.tags
formats = pytest.mark.parametrize("answer_format", [FORMAT, PLAIN])

without_tags = st.text(max_size=60).filter(lambda text: not any(tag in text for tag in TAGS))
# Text that likes to be where a byte-level BPE joins it to the end of a tag.
near_tags = st.text(st.sampled_from("<>/ \n.7a(=-é中\\$\"'|thinkanswer"), max_size=30).filter(
    lambda text: not any(tag in text for tag in TAGS)
)
thoughts = st.one_of(without_tags, near_tags)
answers = thoughts.filter(str.strip)
# Pieces of the format in any order, whole and broken.
pieces = st.lists(
    st.sampled_from([*TAGS, "<think", "think>", "</", "answer>", "</t", "7", "a", " ", "<", ">", "\n", "<<think>"]),
    max_size=25,
)


@formats
@given(thought=thoughts, answer=answers)
def test_what_is_rendered_parses_back(answer_format, thought, answer):
    text = answer_format.render(thought, answer)
    assert answer_format.parse(text) == Completion(thought.strip(), answer.strip(), answer.strip(), well_formed=True)


@given(answers)
def test_no_thought_and_an_empty_one_are_the_same_text(answer):
    assert FORMAT.render(None, answer) == FORMAT.render("", answer) == f"<think></think><answer>{answer}</answer>"
    assert PLAIN.render(None, answer) == PLAIN.render("", answer) == f"<think>\n\n</think>\n\n{answer}"


def test_without_answer_tags_it_is_written_as_qwen3_writes():
    assert PLAIN.render("3 + 4", "It is 7.") == "<think>\n3 + 4\n</think>\n\nIt is 7."


@formats
@given(thoughts, answers, st.data())
def test_an_opening_and_the_rest_parse_like_the_whole(answer_format, thought, answer, data):
    text = answer_format.render(thought, answer)
    cut = data.draw(st.integers(0, len(text)))
    assert answer_format.parse(text[cut:], opening=text[:cut]) == answer_format.parse(text)


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("name", ["thought", "answer"])
def test_a_tag_inside_is_refused(tag, name):
    fields = {"thought": "a", "answer": "b", name: f"x{tag}y"}
    with pytest.raises(ValueError, match=f"`{name}` contains '{tag}', a tag.*Remove it"):
        FORMAT.render(**fields)


@pytest.mark.parametrize("answer", ["", " ", "\n\t"])
def test_an_answer_needs_text(answer):
    with pytest.raises(ValueError, match="`answer` is .* needs text"):
        FORMAT.render("a", answer)


@pytest.mark.parametrize("tags", [("<a>", ""), ("", "<a>"), ("<a>", "<a>"), ("<a>", "<a>b"), ("<answer>", "</a>")])
def test_tags_that_cannot_be_told_apart_are_refused(tags):
    with pytest.raises(ValueError, match="none may be empty or begin with another one"):
        AnswerFormat(thinking_tags=tags)


def test_the_format_of_a_config():
    fields = {"thinking_tags": ["<t>", "</t>"], "answer_tags": None}
    assert AnswerFormat.of(SimpleNamespace(answer_format=fields)) == AnswerFormat(("<t>", "</t>"), None)
    fields = {"thinking_tags": ["<t>", "</t>"], "answer_tags": ["<a>", "</a>"]}
    assert AnswerFormat.of(SimpleNamespace(answer_format=fields)) == AnswerFormat(("<t>", "</t>"), ("<a>", "</a>"))
    assert AnswerFormat.of(SimpleNamespace(answer_format=None)) == AnswerFormat.of(SimpleNamespace()) == FORMAT


@pytest.mark.parametrize(
    ("text", "thought", "answer", "final"),
    [
        ("", None, "", None),
        ("7", None, "7", None),
        ("<thin", None, "<thin", None),
        ("<think>cut off", "cut off", "", None),
        ("<think>cut off</thi", "cut off</thi", "", None),
        ("<think>done</think>", "done", "", None),
        ("<think>done</think> so <answer>cut", "done", "so cut", None),
        ("<think>done</think><answer>cut</ans", "done", "cut</ans", None),
        ("<answer>7</answer>", None, "7", "7"),
        ("<answer></answer>", None, "", None),
        ("</think><answer>7</answer>", None, "</think>7", "7"),
        ("<think>a</think><answer>7</answer> and more", "a", "7 and more", None),
        ("<think>a</think><answer>7</answer> Or 8?", "a", "7 Or 8?", None),
        ("Sure. <think>a</think><answer>7</answer>", "a", "Sure. 7", "7"),
        ("<think>a</think> thus <answer>7</answer>\n", "a", "thus 7", "7"),
        ("<think>a</think><answer> </answer>", "a", "", None),
        ("<think>a</think><answer>1</answer><answer>2</answer>", "a", "1<answer>2</answer>", None),
        ("<think>a</think><answer>1<answer>2</answer>", "a", "1<answer>2", None),
        ("<think>a</think><answer>1</answer>2</answer>", "a", "12</answer>", None),
        ("<think>a</think></answer>2<answer>1</answer>", "a", "</answer>21", None),
        ("<think><think>a</think></think><answer>7</answer>", "<think>a", "</think>7", "7"),
        ("<think>a</think><think>b</think><answer>7</answer>", "a", "<think>b</think>7", "7"),
        ("<think>a <answer>1</answer></think><answer>2</answer>", "a <answer>1</answer>", "2", "2"),
        ("<think>a <answer>1</answer>", "a <answer>1</answer>", "", None),
        ("<answer>1</answer><think>a</think>", "a", "1", None),
        ("<answer>1</answer><think>a</think><answer>2</answer>", "a", "1<answer>2</answer>", None),
        ("<answer>1<think>a</think>2</answer>", "a", "12", None),
        ("<ans<think>a</think>wer>7</answer>", "a", "<answer>7</answer>", None),
        ("<THINK>a</THINK><answer>7</answer>", None, "<THINK>a</THINK>7", "7"),
    ],
)
def test_malformed_text_gives_what_there_is(text, thought, answer, final):
    assert FORMAT.parse(text) == Completion(thought, answer, final, well_formed=False)


@pytest.mark.parametrize(
    ("text", "thought", "answer", "final", "well_formed"),
    [
        ("", None, "", None, False),
        ("It is 7.", None, "It is 7.", "It is 7.", False),
        ("<think>a", "a", "", None, False),
        ("<think>\na\n</think>\n\n", "a", "", None, False),
        ("<think>\na\n</think>\n\nIt is 7.\n", "a", "It is 7.", "It is 7.", True),
        ("<think>\n\n</think>\n\n<answer>7</answer>", "", "<answer>7</answer>", "<answer>7</answer>", True),
        ("Sure. <think>a</think>7", "a", "Sure. 7", "7", False),
        ("<think>a</think>7</think>", "a", "7</think>", "7</think>", False),
    ],
)
def test_without_answer_tags_the_rest_is_the_answer(text, thought, answer, final, well_formed):
    assert PLAIN.parse(text) == Completion(thought, answer, final, well_formed)


@given(pieces)
def test_well_formed_means_that_it_can_be_rendered(parts):
    text = "".join(parts)
    parsed = FORMAT.parse(text)
    in_order = re.fullmatch(r"\s*<think>(.*?)</think>\s*<answer>(.*?\S.*?)</answer>\s*", text, re.DOTALL)
    each_once = [text.count(tag) for tag in TAGS] == [1, 1, 1, 1]
    assert parsed.well_formed == bool(in_order and each_once)
    if parsed.well_formed:
        assert FORMAT.parse(FORMAT.render(parsed.thought, parsed.answer)) == parsed


@pytest.mark.parametrize("answer_format", [FORMAT, PLAIN, OTHER])
@given(
    parts=st.one_of(pieces, st.lists(st.sampled_from([*OTHER.tags, "[THI", "\n", "[/", "$", "en", "d$", " ", "x"]))),
    opened=st.integers(0, 3),
    cuts=st.lists(st.integers(0, 200), max_size=10),
)
@example(parts=["Sure. ", "<think>", "a", "</think>", "<answer>", "7", "</answer>"], opened=0, cuts=list(range(50)))
def test_a_stream_in_any_pieces_gives_what_the_whole_gives(answer_format, parts, opened, cuts):
    opening, text = "".join(parts[:opened]), "".join(parts[opened:])
    ends = sorted({cut for cut in cuts if cut < len(text)})
    shown = ("", "")
    for end, finished in [*((end, False) for end in ends), (len(text), False), (len(text), True)]:
        now = answer_format.split(opening + text[:end], finished)
        assert all(new.startswith(old) for old, new in zip(shown, now, strict=True))
        shown = now
    parsed = answer_format.parse(text, opening)
    assert shown == (parsed.thought or "", parsed.answer)
    if parsed.final is not None:
        assert parsed.answer.endswith(parsed.final)


def test_half_a_tag_is_never_shown():
    text = "<think>3 < 4, so\n3 + 4</think><answer>it is <b>7</b></answer>"
    shown = [FORMAT.split(text[:end], finished=False) for end in range(len(text) + 1)]
    for tag in TAGS:
        assert not any(tag[:length] in "".join(parts) for parts in shown for length in range(3, len(tag) + 1))
    assert shown[-1] == ("3 < 4, so\n3 + 4", "it is <b>7</b>")


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("answer_format", [FORMAT, PLAIN])
@pytest.mark.parametrize(
    "unit", ["<", "<think>", "</answer>", "<answer>", "<think><answer>", "</think", "</think>", "(", " ", "\n"]
)
def test_long_hostile_text_takes_linear_time(unit, answer_format, finished):
    def seconds(length):
        text = "<think>" + unit * (length // len(unit))
        best = float("inf")
        for _ in range(3):
            start = time.process_time()  # what other processes take does not count
            if finished:
                answer_format.parse(text)
            else:
                answer_format.split(text, finished=False)
            best = min(best, time.process_time() - start)
        return best

    short, long = seconds(500_000), seconds(4_000_000)  # 8 times as long: 64 times the time if it were quadratic
    assert long < 1.0
    assert long < 25 * max(short, 1e-3)


@pytest.mark.parametrize("processor", [word_level_processor, byte_level_processor])
@pytest.mark.parametrize("thought", ["First I think", None])
@formats
def test_openings_in_the_prompt(answer_format, processor, thought):
    text = answer_format.render(thought, "4")
    opening = opening_text(processor().tokenizer, thought is not None, answer_format)
    assert opening and text.startswith(opening)
    reply = text.removeprefix(opening)  # what the engine generates
    assert answer_format.split(opening + reply) == (thought or "", "4")
    assert answer_format.parse(reply, opening).final == "4"
