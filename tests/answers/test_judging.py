"""Whether a completion is right: by its final answer, and never by a malformed one."""

import pytest

from hf_metis_home.answers import AnswerFormat, Verdict, judge


RIGHT, WRONG, MALFORMED = Verdict(True, False, "7"), Verdict(False, False, "8"), Verdict(False, True, None)
PLAIN = AnswerFormat(answer_tags=None)


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("<think>3 + 4</think><answer>7</answer>", RIGHT),
        ("<answer> 7 </answer>\n", RIGHT),
        ("Well. <think>a</think> So: <answer>7</answer>", RIGHT),
        ("<think>is it <answer>8</answer>?</think><answer>7</answer>", RIGHT),
        ("<think>7</think><answer>8</answer>", WRONG),
        ("<think><answer>7</answer></think><answer>8</answer>", WRONG),
        ("7", MALFORMED),
        ("", MALFORMED),
        ("<think><answer>7</answer>", MALFORMED),
        ("<think>a</think><answer>7", MALFORMED),
        ("<think>a</think><answer></answer>", MALFORMED),
        ("<think>a</think><answer>7</answer> or 8", MALFORMED),
        ("<think>a</think><answer>8</answer><answer>7</answer>", MALFORMED),
        ("<answer>7</answer><think>a</think>", MALFORMED),
    ],
)
def test_the_final_answer_is_judged(text, verdict):
    assert judge(text, "7") == verdict


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("7", RIGHT),
        ("<think>\n8\n</think>\n\n7", RIGHT),
        ("<think>7</think>8", WRONG),
        ("<think>7", MALFORMED),
        ("<think>7</think>\n", MALFORMED),
    ],
)
def test_without_answer_tags_it_is_the_text_after_the_thought(text, verdict):
    assert judge(text, "7", PLAIN) == verdict


def test_the_opening_in_the_prompt_belongs_to_it():
    assert judge("3 + 4</think><answer>7</answer>", "7", opening="<think>") == RIGHT
    assert judge("7</answer>", "7", opening="<think></think><answer>") == RIGHT
    assert judge("7", "7", PLAIN, opening="<think>") == MALFORMED


def test_any_of_several_gold_answers_is_right():
    text = "<think>3 + 4</think><answer>7</answer>"
    assert judge(text, ["8", "seven"]).correct and not judge(text, ["8", "9"]).correct
    assert judge(text, ("7",)).correct


def test_a_verifier_judges_instead_but_only_a_final_answer():
    text = "<think>3 + 4</think><answer>7</answer>"
    assert judge(text, None, verifier=lambda answer: answer == "7") == RIGHT
    assert judge(text, "7", verifier=lambda answer: 0) == Verdict(False, False, "7")
    assert judge("7", None, verifier=lambda answer: pytest.fail("asked about nothing")) == MALFORMED


@pytest.mark.parametrize("solution", ["", " ", None, 7, [], ["8", ""]])
def test_a_gold_answer_that_says_nothing_is_an_error(solution):
    with pytest.raises(ValueError, match="`solution` is"):
        judge("<answer>7</answer>", solution)
