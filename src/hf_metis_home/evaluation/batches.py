"""
Batches of questions: which go together, and what happens when a row fails.

A batch costs as much as its longest prompt and its longest answer. Answers to questions of one task have similar
lengths, so rows are sorted by task, then by the length of their prompt.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..data import prompt_inputs
from ..data.images import decode_image
from .row_checks import Question


OUT_OF_MEMORY = "out of memory"
MEMORY_SIGNS = (OUT_OF_MEMORY, "can't allocate memory", "not enough memory")


class RowError(ValueError):
    """What is wrong with one row, as the table of outcomes states it."""


def plan_batches(questions: Sequence[Question], batch_size: int) -> list[list[int]]:
    """Numbers of the questions to answer together, the shortest prompts of a task first."""
    tasks = {task: number for number, task in enumerate(dict.fromkeys(question.task for question in questions))}
    order = sorted(range(len(questions)), key=lambda number: (tasks[questions[number].task], questions[number].length))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def read_row(row: dict, error: str | None) -> dict | RowError:
    """A row with its images decoded, or why it cannot be asked."""
    if error:
        return RowError(error)
    try:
        return {**row, "images": [decode_image(image) for image in row.get("images") or []]}
    except Exception as problem:  # noqa: BLE001  of the many libraries that decode images
        return RowError(f"cannot be read ({_words(problem)})")


def prepare_batch(processor, rows: list[dict | RowError], longest: int) -> tuple[list[int], Any, dict[int, str]]:
    """
    Model inputs for the rows of a batch that can be asked.

    Args:
        processor ([`~transformers.Qwen2_5_VLProcessor`]):
            As for [`~data.prompt_inputs`].
        rows (`list[dict | RowError]`):
            As [`read_row`] returns them.
        longest (`int`):
            Longest prompt in tokens.

    Returns:
        `list[int]`: places of the rows in the inputs.
        [`~transformers.BatchFeature`]: the inputs; None if there are no rows.
        `dict[int, str]`: place to error for the other rows.
    """
    errors = {place: str(row) for place, row in enumerate(rows) if isinstance(row, RowError)}

    def inputs_of(places: list[int]):
        asked = [row for place in places if isinstance(row := rows[place], dict)]
        if not asked:
            return None
        inputs = prompt_inputs(processor, asked)
        length = int(inputs["attention_mask"].sum(dim=1).max())
        if length > longest:
            raise RowError(
                f"the prompt has {length} tokens, more than the {longest} that leave room for an answer of "
                "`max_new_tokens` in the model's `max_position_embeddings`"
            )
        return inputs

    places = [place for place in range(len(rows)) if place not in errors]
    try:
        return places, inputs_of(places), errors
    except Exception:  # noqa: BLE001  reported below, per row
        pass
    for place in places:
        try:
            inputs_of([place])
        except RowError as error:
            errors[place] = str(error)
        except Exception as error:  # noqa: BLE001  whatever image, template and processor raise for a bad row
            errors[place] = f"cannot be turned into a prompt ({_words(error)})"
    places = [place for place in places if place not in errors]
    return places, inputs_of(places), errors


def in_halves(function: Callable, processor, rows: Sequence, inputs, device) -> list:
    """
    `function(inputs)`, a list with one result per row; if memory runs out, on half of the rows at a time. The result of
    a row that does not fit on its own is an error message, a `str`.
    """
    try:
        return function(inputs)
    except (RuntimeError, MemoryError) as error:
        words = _words(error)
        if not isinstance(error, MemoryError) and not any(sign in str(error) for sign in MEMORY_SIGNS):
            raise
    # Outside the handler, because the exception keeps the tensors alive that did not fit.
    if len(rows) == 1:
        return [f"{OUT_OF_MEMORY} ({words})"]
    if device.type == "cuda":
        torch.cuda.empty_cache()
    middle = len(rows) // 2
    results = []
    for half in (rows[:middle], rows[middle:]):
        results += in_halves(function, processor, half, prompt_inputs(processor, half).to(device), device)
    return results


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
