"""Rows as questions: what is known of each before it is asked, and what is wrong with it."""

from collections.abc import Callable, Sequence
from textwrap import shorten
from types import NoneType

from ..tasks.rows import gold_answers, stored_rows
from .answering import exact_match
from .batches import Question, image_length, text_of
from .policies import POOLED


def questions_of(rows: Sequence[dict], processor, match: Callable[[str, str], bool] = exact_match) -> list[Question]:
    """Every row as a question. An error for rows that cannot be answered and judged, or told apart."""
    if len(rows) == 0:
        raise ValueError("`rows` is empty, so there is nothing to answer.")
    questions, texts, seen = [], [], {}
    for number, row in enumerate(stored_rows(rows)):
        for column in ("prompt", "solution", "task"):
            if row.get(column) is None:
                raise ValueError(
                    f"Row {number} of `rows` has no {column!r}. Outcomes need `prompt`, `solution` and `task`."
                )
        if not _is_conversation(row["prompt"]):
            shown = shorten(repr(row["prompt"]), 80)
            raise ValueError(
                f"Row {number} of `rows` has the `prompt` {shown}, which is no list of messages. Write "
                "[{'role': 'user', 'content': the question}]."
            )
        task = str(row["task"])
        if task == POOLED:
            raise ValueError(
                f"Row {number} of `rows` is of a task called {POOLED!r}, which is what all tasks together are called. "
                "Call it otherwise."
            )
        identity = str(number) if row.get("id") is None else str(row["id"])
        first = seen.setdefault((task, identity), number)
        if first != number:
            raise ValueError(
                f"Rows {first} and {number} of `rows` both have id {identity!r} in task {task!r}, so their "
                "outcomes could not be told apart. Give each question an id of its own, or drop the column."
            )
        subject = None if row.get("subject") is None else str(row["subject"])
        error = row.get("error") or _gold_problem(row, match)
        questions.append(Question(task, identity, subject, image_length(row, processor), error))
        texts.append("\n".join(text_of(message["content"]) for message in row["prompt"]))
    lengths = map(len, processor.tokenizer(texts)["input_ids"])  # at once, which is ten times as fast
    return [question._replace(length=question.length + more) for question, more in zip(questions, lengths, strict=True)]


def _is_conversation(prompt) -> bool:
    return (
        isinstance(prompt, (list, tuple))
        and len(prompt) > 0
        and all(isinstance(message, dict) and _is_content(message.get("content")) for message in prompt)
    )


def _is_content(content) -> bool:
    return isinstance(content, (str, NoneType)) or (
        isinstance(content, (list, tuple)) and all(isinstance(part, dict) for part in content)
    )


def _gold_problem(row: dict, match: Callable[[str, str], bool]) -> str | None:
    """Why no answer can be compared with a row's gold answers; None where one can."""
    if row.get("verifier"):
        return None
    for gold in gold_answers(row):
        try:
            match(gold, gold)
        except Exception as error:  # noqa: BLE001  whatever a comparison makes of a bad gold answer
            return f"the gold answer {gold!r} cannot be compared ({type(error).__name__}: {error})"
    return None
