"""Rewards of completions: for the right ones, against clever ones, and wherever they are called."""

import multiprocessing
import pickle
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_metis_home.answers import AnswerFormat
from hf_metis_home.rewards import accuracy_reward, format_reward, get_soft_overlong_punishment, thought_leak_penalty


TAGS = AnswerFormat().tags
without_tags = st.text(max_size=60).filter(lambda text: not any(tag in text for tag in TAGS))
results = without_tags.filter(str.strip)
pieces = st.lists(
    st.one_of(st.sampled_from([*TAGS, "7", "8", " ", "\n", "7</answer>", "<answer>7"]), st.text(max_size=5)),
    max_size=20,
).map("".join)
THOUGHT, DIRECT = "<think>3 + 4</think><answer>7</answer>", "<think></think><answer>7</answer>"


def conversational(text):
    return [{"role": "assistant", "content": text}]


@pytest.mark.parametrize("form", [str, conversational, lambda text: conversational([{"type": "text", "text": text}])])
def test_completions_are_texts_or_messages(form):
    completions = [form(THOUGHT), form(DIRECT), form("7")]
    columns = {"prompts": ["?"] * 3, "completion_ids": [[1]] * 3, "trainer_state": None}
    assert format_reward(completions=completions, thinking=[True, False, True], **columns) == [1.0, 1.0, 0.0]
    assert accuracy_reward(completions=completions, solution=["7", "7", "7"], **columns) == [1.0, 1.0, 0.0]
    assert thought_leak_penalty(
        completions=[form(THOUGHT), form(DIRECT), form(THOUGHT)], thinking=[True, False, False], **columns
    ) == [0.0, 0.0, -1.0]


@pytest.mark.parametrize("completion", [None, 7, [], [{"role": "assistant"}], conversational("7") * 2])
def test_another_form_is_an_error_that_names_it(completion):
    with pytest.raises(ValueError, match="Completion 1 is .*list with one assistant message"):
        format_reward([THOUGHT, completion])


@pytest.mark.parametrize(
    ("text", "thinking", "reward"),
    [
        (THOUGHT, True, 1.0),
        (THOUGHT, False, 0.0),
        (DIRECT, False, 1.0),
        (DIRECT, True, 0.0),
        (f"\n{THOUGHT} ", True, 1.0),
        ("<think> </think><answer>7</answer>", True, 0.0),
        ("<think>a</think>so<answer>7</answer>", True, 0.0),
        ("<think>a</think><answer>7</answer>!", True, 0.0),
        ("<think>a</think><answer></answer>", True, 0.0),
        ("<think>a</think><answer>7</answer><answer>7</answer>", True, 0.0),
        ("<think>a</think><answer>7", True, 0.0),
        ("<answer>7</answer>", False, 0.0),
        ("", True, 0.0),
    ],
)
def test_format_reward(text, thinking, reward):
    assert format_reward([text], thinking=[thinking]) == [reward]


def test_a_dense_model_thinks():
    assert format_reward([THOUGHT, DIRECT]) == [1.0, 0.0]
    assert thought_leak_penalty([THOUGHT, "steps"]) == [0.0, 0.0]


@pytest.mark.parametrize("mode", [None, 1, "True"])
def test_a_mode_that_is_none_is_an_error_that_names_row_and_column(mode):
    for reward in (format_reward, thought_leak_penalty):
        with pytest.raises(ValueError, match="Row 1, column `thinking`: .* not True or False"):
            reward([THOUGHT, THOUGHT], thinking=[True, mode])


@pytest.mark.parametrize("gold", ["", "  ", None, 7, "$ $"])
def test_an_empty_gold_answer_is_an_error_that_names_row_and_column(gold):
    with pytest.raises(ValueError, match="Row 1, column `solution`"):
        accuracy_reward([THOUGHT, "not even an answer"], solution=["7", gold])


def test_columns_that_are_missing_or_short_are_errors():
    with pytest.raises(ValueError, match="no column `solution`.*Add it"):
        accuracy_reward([THOUGHT])
    with pytest.raises(ValueError, match="`solution` has 1 rows for 2 completions"):
        accuracy_reward([THOUGHT, THOUGHT], solution=["7"])
    with pytest.raises(ValueError, match="`thinking` has 1 rows for 2 completions"):
        format_reward([THOUGHT, THOUGHT], thinking=[True])


@pytest.mark.parametrize(
    "text",
    [
        "7",
        "<think>7</think>",
        "<think><answer>7</answer></think>",
        "<think><answer>7</answer>",
        "<think><answer>7</answer></think><answer>8</answer>",
        "<think>7</think><answer>8</answer>",
        "<answer>7</answer><think>a</think>",
        "<think>a</think><answer>7",
        "<think>a</think>7</answer>",
        "<think>a</think><answer>7</answer><answer>7</answer>",
        "<think>a</think><answer>8</answer><answer>7</answer>",
        "<think>a</think><answer><answer>7</answer></answer>",
        "<think>a</think><answer>8<answer>7</answer>",
        "<think>a</think><answer>7</answer></answer>",
        "<think>a</think><answer>7</answer>8</answer>",
        "<think>a</think><answer>7</answer> or 8",
        "<think>a</think><answer>7 or 8</answer>",
        "<think>a</think><answer>6, 7, 8</answer>",
        "<think>a</think><answer><think>b</think>7</answer>",
        "<think>a</think></answer>7<answer>",
        "<think>a</think><answer></answer>",
        "<think>a</think><ANSWER>7</ANSWER>",
        "<think>a</think><answer>8<ANSWER>7</ANSWER></answer>",
    ],
)
def test_these_never_win(text):
    assert accuracy_reward([text], solution=["7"]) == [0.0]


@pytest.mark.parametrize(
    "text", [THOUGHT, DIRECT, "<answer>7</answer>", "<think>a</think> So: <answer>7</answer>\n", f"Well. {THOUGHT}"]
)
def test_these_win(text):
    assert accuracy_reward([text], solution=["7"]) == [1.0]


@given(without_tags, results)
def test_what_is_rendered_is_well_formed(thought, answer):
    text = AnswerFormat().render(thought, answer)
    assert format_reward([text], thinking=[bool(thought.strip())]) == [1.0]
    assert format_reward([text], thinking=[not thought.strip()]) == [0.0]


@settings(deadline=None)
@given(without_tags, results.filter(lambda text: text.strip().strip(" .,:;\"'“”‘’$\\()[]{}*`!?")))
def test_the_gold_answer_wins_and_a_second_block_never_does(thought, gold):
    text = AnswerFormat().render(thought, gold)
    assert accuracy_reward([text + "<answer>x</answer>", f"{text}<answer>{gold}</answer>"], [gold] * 2) == [0.0, 0.0]
    assert accuracy_reward([f"<think>{thought}{gold}</think>"], [gold]) == [0.0]
    assert accuracy_reward([f"<think>{thought}<answer>{gold}</answer></think>"], [gold]) == [0.0]


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(), pieces), st.booleans())
def test_any_text_gets_a_reward(text, thinking):
    started = time.monotonic()
    assert format_reward([text], thinking=[thinking])[0] in (0.0, 1.0)
    assert accuracy_reward([text], solution=["7"])[0] in (0.0, 1.0)
    assert thought_leak_penalty([text], thinking=[thinking], solution=["7"])[0] in (0.0, -1.0)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("text", "gold", "penalty"),
    [
        (DIRECT, "7", 0.0),
        ("<answer>7</answer>", "7", 0.0),
        ("<think> </think> <answer>7</answer>", "7", 0.0),
        ("", "7", 0.0),
        (THOUGHT, "7", -1.0),
        ("7", "7", -1.0),
        ("<think></think>3 + 4 <answer>7</answer>", "7", -1.0),
        ("<think></think><answer>7</answer> since 3 + 4", "7", -1.0),
        ("<think>cut off", "7", -1.0),
        ("<think></think><think>a</think><answer>7</answer>", "7", -1.0),
        ("<think></think><answer>never closed 3 + 4 = 7", "7", 0.0),
        (AnswerFormat().render(None, "3 + 4 is seven, because " * 4), "7", -1.0),
        (AnswerFormat().render(None, "3\n4\n\nsum\n7"), "7", -1.0),
        (AnswerFormat().render(None, "3\n4\n7"), "7", 0.0),
        (AnswerFormat().render(None, "a long caption " * 20), "a long caption " * 20, 0.0),
        (AnswerFormat().render(None, "3 + 4 is seven, because " * 4), None, 0.0),
    ],
)
def test_thought_leak_penalty(text, gold, penalty):
    assert thought_leak_penalty([text], thinking=[False], solution=[gold]) == [penalty]
    assert thought_leak_penalty([text], thinking=[True], solution=[gold]) == [0.0]


def test_long_answers_are_punished_softly():
    assert get_soft_overlong_punishment(100, 20)(completion_ids=[[1] * 70, [1] * 90, [1] * 101]) == [0.0, -0.5, -1.0]


HOSTILE = [
    "<think>" + "(" * 3_000_000,
    "<answer>" * 300_000,
    AnswerFormat().render("a", "9^{9^{9^9}}"),
    AnswerFormat().render("a", "(" * 2_000_000 + ")"),
    AnswerFormat().render("a", "((x+1)^{9999}+1)^{9999}"),
    AnswerFormat().render("\\frac{" * 200_000, r"\binom{10^{9}}{10^{8}} + x"),
    AnswerFormat().render("a", "{" * 100 + "x" + "}" * 100),
]


def test_hostile_completions_take_seconds_and_win_nothing():
    started = time.monotonic()
    assert accuracy_reward(HOSTILE, solution=["x^2 + 1"] * len(HOSTILE)) == [0.0] * len(HOSTILE)
    assert format_reward(["(" * 10**6 + text for text in HOSTILE]) == [0.0] * len(HOSTILE)
    assert set(thought_leak_penalty(HOSTILE, [False] * len(HOSTILE), ["7"] * len(HOSTILE))) == {-1.0}
    assert time.monotonic() - started < 30


def test_rewards_work_outside_the_main_thread():
    found = []
    text = AnswerFormat().render("a", "1 + x^2")
    thread = threading.Thread(target=lambda: found.extend(accuracy_reward([text, DIRECT], solution=["x^2 + 1"] * 2)))
    thread.start()
    thread.join(timeout=60)
    assert found == [1.0, 0.0]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_rewards_work_in_a_daemon_process_as_of_a_data_loader(method):
    text = AnswerFormat().render("a", "2 + x^2")
    assert accuracy_reward([text], solution=["x^2 + 2"]) == [1.0]
    with multiprocessing.get_context(method).Pool(1) as pool:
        result = pool.apply_async(accuracy_reward, ([text, text], ["x^2 + 2", "x^2 + 3"]))
        assert result.get(timeout=120) == [1.0, 0.0]


def test_rewards_can_be_sent_to_another_process():
    for reward in (accuracy_reward, format_reward, thought_leak_penalty):
        assert pickle.loads(pickle.dumps(reward)) is reward


def test_a_process_that_asked_ends_and_its_worker_with_it():
    code = (
        "from hf_metis_home.rewards import answers_match; from hf_metis_home.answers import expressions;"
        "print(answers_match('y + x', 'x + y'), expressions._worker.pid)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    verdict, process_id = done.stdout.split()
    assert (verdict, done.returncode, done.stderr) == ("True", 0, "")
    deadline = time.monotonic() + 20  # on a busy machine, the worker may need a moment to see that it is alone
    while _runs(int(process_id)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(int(process_id))


def _runs(process_id: int) -> bool:
    try:
        with open(f"/proc/{process_id}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
