"""What is wrong with a row is said before training, naming the row, the column and what to do."""

import copy

import pytest

from hf_metis_home.answers import AnswerFormat
from hf_metis_home.data import TRAINING_COLUMNS, check_columns, check_row


def row(**changes):
    return {
        "prompt": [{"role": "user", "content": "what color is the shape?"}],
        "images": [],
        "completion": [{"role": "assistant", "content": AnswerFormat().render("7-3=4;", "4")}],
        "thinking": True,
        **changes,
    }


def answered(text):
    return [{"role": "assistant", "content": text}]


def asked(*parts):
    return [{"role": "user", "content": list(parts)}]


IMAGE, TEXT = {"type": "image", "text": None}, {"type": "text", "text": "what color?"}

GOOD = {
    "thinking": row(),
    "non-thinking": row(completion=answered("<think></think><answer>4</answer>"), thinking=False),
    "blank thought": row(completion=answered("<think>\n\n</think>\n<answer>4</answer>"), thinking=False),
    "images in front of text": row(images=["a", "b"]),
    "images placed by parts": row(prompt=asked(IMAGE, TEXT, IMAGE), images=["a", "b"]),
    "text in parts": row(prompt=asked(TEXT)),
    "system and earlier turns": row(
        prompt=[
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "what?"},
            {"role": "assistant", "content": "that"},
            {"role": "user", "content": "why?"},
        ]
    ),
    "completion in parts": row(completion=answered([{"type": "text", "text": "<think>a</think><answer>4</answer>"}])),
    "more columns": row(solution="4", task="x"),
}

NOT_MESSAGES = [None, "a question", [], ["a question"], [{}], [{"role": "user"}], [{"role": "user", "content": None}]]
NOT_MESSAGES += [[{"content": "a"}], [{"role": "user", "content": ["a"]}], {"role": "user", "content": "a"}]

BAD = [
    *((row(thinking=value), "thinking", "is not True or False. It names the branch") for value in (None, 1, "yes", [])),
    *((row(prompt=value), "prompt", "is not a list of chat messages") for value in NOT_MESSAGES),
    (
        row(prompt=[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]),
        "prompt",
        "ends with role 'assistant'; the last message must be the user's query",
    ),
    (row(prompt=asked({"type": "text", "text": "<|image_pad|>"})), "prompt", "spells out one of .* leave it out"),
    (row(prompt=[{"role": "user", "content": "see <|video_pad|>"}]), "prompt", "spells out one of .* leave it out"),
    *((row(images=value), "images", "must be a list of images") for value in (None, "a.png", {})),
    (row(prompt=asked(IMAGE, TEXT)), "images", "0 images for 1 image places in `prompt`. Make the numbers agree"),
    (row(prompt=asked(TEXT), images=["a"]), "images", "1 images for 0 image places"),
    (row(prompt=asked(IMAGE, IMAGE, TEXT), images=["a"]), "images", "1 images for 2 image places"),
    *((row(completion=value), "completion", "is not a list with one assistant message") for value in NOT_MESSAGES),
    (row(completion=[{"role": "user", "content": "a"}]), "completion", "is not a list with one assistant message"),
    (row(completion=answered("a") * 2), "completion", "is not a list with one assistant message"),
    *((row(completion=answered(text)), "completion", "empty.*Drop the row") for text in ("", " \n", [])),
    *(
        (row(completion=answered(text)), "completion", "is not of the form <think>…</think><answer>…</answer>. See")
        for text in (
            "4",
            "<think>a</think>4",
            "<think>a</think><answer></answer>",
            "<answer>4</answer>",
            "<think>" * 99,
        )
    ),
    (
        row(completion=answered("<think></think><answer>4</answer>")),
        "completion",
        "has no thought, but `thinking` is T",
    ),
    (
        row(completion=answered("<think> </think><answer>4</answer>")),
        "completion",
        "has no thought.*Make the two agree",
    ),
    (row(thinking=False), "completion", "has a thought, but `thinking` is False. Make the two agree"),
]


@pytest.mark.parametrize("name", GOOD)
def test_good_rows_pass_untouched(name):
    before = copy.deepcopy(GOOD[name])
    check_row(GOOD[name], 0)
    assert GOOD[name] == before


@pytest.mark.parametrize(("bad", "column", "message"), BAD)
def test_bad_rows_are_named(bad, column, message):
    with pytest.raises(ValueError, match=message) as error:
        check_row(bad, 17, "evaluation dataset")
    assert str(error.value).startswith(f"Row 17 of the evaluation dataset, column '{column}': ")
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("column", TRAINING_COLUMNS)
def test_a_missing_column_is_named(column):
    short = row()
    del short[column]
    with pytest.raises(ValueError, match=f"^Row 3 of the dataset, column '{column}': missing. Training rows need"):
        check_row(short, 3)
    with pytest.raises(ValueError, match=f"^The training dataset has no column '{column}'; it has .*row format"):
        check_columns(list(short), "training dataset")


def test_all_missing_columns_are_named_at_once():
    with pytest.raises(ValueError, match="no column 'prompt', 'images', 'completion', 'thinking'; it has \\['text'\\]"):
        check_columns(["text"])


def test_columns_may_be_more():
    check_columns([*TRAINING_COLUMNS, "solution"])
