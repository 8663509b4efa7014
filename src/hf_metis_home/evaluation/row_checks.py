"""Rows as questions: what is known about each before it is asked, and what is wrong with it."""

from collections.abc import Sequence
from textwrap import shorten
from typing import NamedTuple

from ..answers.matching import answers_match
from ..data.images import open_image
from ..data.rows import is_conversation, text_of
from ..tasks.rows import gold_answers, question_names
from .policies import POOLED


class Question(NamedTuple):
    """What is known about a row before it is asked: `length` of its prompt in tokens, `error` if it cannot be asked."""

    task: str
    id: str
    subject: str | None
    length: int
    error: str | None = None


def questions_of(rows: Sequence[dict], processor) -> list[Question]:
    """
    Every row as a question.

    Raises:
        ValueError: rows that cannot be answered, judged, or told apart.
    """
    if len(rows) == 0:
        raise ValueError("`rows` is empty, so there is nothing to answer.")
    questions, texts, seen = [], [], {}
    for number, row in enumerate(rows):
        for column in ("prompt", "solution", "task"):
            if row.get(column) is None:
                raise ValueError(f"Row {number} of `rows` has no {column!r}; it needs `prompt`, `solution` and `task`.")
        if not is_conversation(row["prompt"]):
            shown = shorten(repr(row["prompt"]), 80)
            raise ValueError(
                f"Row {number} of `rows` has the `prompt` {shown}, which is not a list of messages. Write "
                "[{'role': 'user', 'content': the question}]."
            )
        names = question_names(row, number)
        task, identity = names["task"], names["id"]
        if task == POOLED:
            raise ValueError(f"Row {number} of `rows` has the task {POOLED!r}, which means all tasks. Rename it.")
        first = seen.setdefault((task, identity), number)
        if first != number:
            raise ValueError(
                f"Rows {first} and {number} of `rows` both have id {identity!r} in task {task!r}, so their outcomes "
                "could not be told apart. Use unique ids, or drop the column."
            )
        error = row.get("error") or _gold_problem(row)
        questions.append(Question(**names, length=_image_length(row, processor), error=error))
        texts.append("\n".join(text_of(message["content"]) for message in row["prompt"]))
    lengths = map(len, processor.tokenizer(texts)["input_ids"])  # all at once, which is ten times as fast
    return [question._replace(length=question.length + more) for question, more in zip(questions, lengths, strict=True)]


def _image_length(row: dict, processor) -> int:
    """Tokens of a row's images, without those that cannot be opened."""
    length, merged = 0, processor.image_processor.merge_size**2
    for image in row.get("images") or []:
        try:
            width, height = open_image(image).size
            length += processor.image_processor.get_number_of_image_patches(height, width) // merged
        except Exception:  # noqa: BLE001  reported when the row is asked
            continue
    return length


def _gold_problem(row: dict) -> str | None:
    """Why no answer can be compared with a row's gold answers; None if one can."""
    if row.get("verifier"):
        return None
    for gold in gold_answers(row):
        try:
            answers_match(gold, gold)
        except Exception as error:  # noqa: BLE001  whatever a comparison raises for a bad gold answer
            return f"the gold answer {gold!r} cannot be compared ({type(error).__name__}: {error})"
    return None
