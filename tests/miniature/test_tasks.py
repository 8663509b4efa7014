"""The miniature's rows: right answers, a fair located family, and no source image in two splits."""

import random
import re

import numpy as np
import pytest

from hf_metis_home.answers import AnswerFormat
from hf_metis_home.data import check_row
from hf_metis_home.miniature.images import SPLITS, digit_cells, digit_grid, shape_captions, shape_questions, word_of
from hf_metis_home.miniature.tasks import (
    EASY_TASKS,
    HARD_TASKS,
    LOCATED_TASKS,
    TASKS,
    THINKING_TASKS,
    make_dataset,
    make_row,
)
from tests.fixtures_text import word_level_processor


def drawn(task: str, count: int = 60, split: str = "train", **kwargs) -> list[dict]:
    rng = random.Random(0)
    return [make_row(task, split, rng, **kwargs) for _ in range(count)]


def steps_of(row: dict) -> str:
    return AnswerFormat().parse(row["completion"][0]["content"]).thought


def calculated(step: str) -> int:
    """Last digit of a sum or product, or the difference."""
    return abs(eval(step)) % 10


@pytest.mark.parametrize("task", (*TASKS, "caption"))
def test_rows_are_valid_and_every_word_is_a_token(task):
    processor = word_level_processor()
    for index, row in enumerate(drawn(task)):
        check_row(row, index)
        assert row["task"] == task and row["thinking"] == (task in THINKING_TASKS)
        text = row["completion"][0]["content"]
        assert AnswerFormat().parse(text).answer == row["solution"]
        for part in (text, row["prompt"][0]["content"]):
            assert processor.tokenizer.unk_token_id not in processor.tokenizer(part)["input_ids"]


def test_easy_and_hard_are_told_apart():
    assert set(EASY_TASKS) | set(HARD_TASKS) | set(LOCATED_TASKS) == set(TASKS)
    assert set(THINKING_TASKS) == {*HARD_TASKS, "located_hard"}


@pytest.mark.parametrize("task", ["chain", "squares", "located_hard"])
def test_written_steps_are_right_and_lead_to_the_solution(task):
    for row in drawn(task):
        read, *rest = steps_of(row).rstrip(";").split(";")
        assert len(read) == 4
        if task == "chain":
            signs = row["prompt"][0]["content"].split()[-1]
            value = int(read[0])
            for sign, digit in zip(signs, read[1:], strict=True):
                value = calculated(f"{value}{sign}{digit}")
        else:
            assert rest.pop(0) == "".join(str(int(digit) ** 2 % 10) for digit in read)
            value = sum(int(digit) ** 2 for digit in read) % 10
        assert row["solution"] == str(value)
        assert len(rest) == 3 and rest[-1].endswith(f"={value}")
        for step in rest:
            left, right = step.split("=")
            assert re.fullmatch(r"\d[-+*]\d", left) and calculated(left) == int(right)


def test_the_other_mode_can_be_asked_for():
    for row in drawn("chain", 5, thinking=False):
        assert row["completion"][0]["content"] == f"<think></think><answer>{row['solution']}</answer>"
        assert row["thinking"] is False


def test_only_the_image_tells_the_sides_of_the_located_family_apart():
    easy, hard = drawn("located_easy"), drawn("located_hard")
    assert {row["prompt"][0]["content"] for row in easy + hard} == {"what is the result?"}
    assert all(int(steps_of(row)[0]) >= 5 for row in hard)
    assert all(int(row["solution"]) < 5 for row in easy)
    # The rest of the grid says nothing: all digits occur there on both sides.
    assert {digit for row in hard for digit in steps_of(row)[1:4]} == set("0123456789")


def test_digits_of_a_grid_are_in_reading_order():
    cells = digit_cells("test")
    grid = np.asarray(digit_grid([3, 1, 4, 7], "test", random.Random(0)))
    assert grid.shape == (56, 56, 3)
    corners = [grid[:28, :28], grid[:28, 28:], grid[28:, :28], grid[28:, 28:]]
    for digit, corner in zip([3, 1, 4, 7], corners, strict=True):
        assert any(np.array_equal(corner[..., 0], cell) for cell in cells[digit])


def test_no_source_image_is_in_two_splits():
    digits = [{cell.tobytes() for cells in digit_cells(split).values() for cell in cells} for split in SPLITS]
    assert [len(found) > 150 for found in digits] == [True] * 3
    assert not digits[0] & digits[1] and not digits[0] & digits[2] and not digits[1] & digits[2]
    images = {split: {image for _, _, image in shape_questions(split)} for split in SPLITS}
    assert (len(images["train"]), len(images["dev"]), len(images["test"])) == (3600, 400, 1000)
    # Numbers of the test split count images in a folder of their own.
    assert not images["train"] & images["dev"]
    assert {image for _, image in shape_captions()} <= images["train"]
    words = [{word_of(split, random.Random(seed)) for seed in range(300)} for split in SPLITS]
    assert not words[0] & words[1] and not words[0] & words[2] and not words[1] & words[2]


def test_datasets_are_repeatable_shuffled_and_split():
    counts = {"shapes": 3, "chain": 5, "words": 4}
    first, same = make_dataset(counts, "dev", seed=1), make_dataset(counts, "dev", seed=1)
    assert first.to_dict() == same.to_dict()
    assert {task: first["task"].count(task) for task in counts} == counts
    assert first["task"] != sorted(first["task"])
    for other in (make_dataset(counts, "dev", seed=2), make_dataset(counts, "test", seed=1)):
        assert first["solution"] != other["solution"]
    row = first[0]
    assert row["images"][0].size in {(56, 56), (64, 64)} and row["images"][0].mode == "RGB"
    check_row(row, 0)
