"""
Batches of questions: which go together, and what becomes of a row that fails.

A batch costs what its longest prompt and its longest answer cost. Answers to questions of one task are about as long,
so rows are sorted by task, then by the length of their prompt.
"""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

from ..data import prompt_inputs


OUT_OF_MEMORY = "out of memory"
MEMORY_SIGNS = (OUT_OF_MEMORY, "can't allocate memory", "not enough memory")


class RowError(ValueError):
    """What is wrong with one row, in words for the table."""


class Question(NamedTuple):
    """What is known of a row before it is asked; `length` in tokens of the prompt, `error` why it will not be."""

    task: str
    id: str
    subject: str | None
    length: int
    error: str | None = None


def plan_batches(questions: Sequence[Question], batch_size: int) -> list[list[int]]:
    """Numbers of questions that are answered together, the shortest prompts of a task first."""
    tasks = {task: number for number, task in enumerate(dict.fromkeys(question.task for question in questions))}
    order = sorted(range(len(questions)), key=lambda number: (tasks[questions[number].task], questions[number].length))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def image_length(row: dict, processor) -> int:
    """Tokens of a row's images. One that cannot be opened counts as nothing."""
    length, merged = 0, processor.image_processor.merge_size**2
    for image in row.get("images") or []:
        try:
            width, height = _size(image)
            length += processor.image_processor.get_number_of_image_patches(height, width) // merged
        except Exception:  # noqa: BLE001  whatever is wrong with it shows, and is told, when the row's turn comes
            continue
    return length


def text_of(content) -> str:
    """The text of a message's content."""
    return content if isinstance(content, str) else "".join(part.get("text") or "" for part in content or ())


def open_image(image) -> Image.Image:
    """An image as rows hold it, a PIL image, a dict with `bytes` and `path`, or a path; not decoded yet."""
    if isinstance(image, dict):
        image = io.BytesIO(image["bytes"]) if image.get("bytes") else image["path"]
    return image if isinstance(image, Image.Image) else Image.open(image)


def _size(image) -> tuple[int, int]:
    opened = open_image(image)
    if opened is not image and isinstance(image, (str, Path)):
        with opened:
            return opened.size
    return opened.size


def read_row(rows: Sequence[dict], number: int) -> dict | RowError:
    """A row, or why it cannot be asked: an image that cannot be decoded, say."""
    try:
        row = rows[number]
    except Exception as error:  # noqa: BLE001  of the many libraries that decode images
        return RowError(f"cannot be read ({_words(error)})")
    if row.get("error"):
        return RowError(row["error"])
    return {**row, "images": row.get("images") or []}


def prepare_batch(processor, rows: list[dict | RowError], longest: int) -> tuple[list[int], Any, dict[int, str]]:
    """
    Model inputs for those rows of a batch that can be asked.

    Args:
        processor ([`~transformers.Qwen2_5_VLProcessor`]):
            As for [`~data.prompt_inputs`].
        rows (`list[dict | RowError]`):
            As [`read_row`] gives them.
        longest (`int`):
            Longest prompt in tokens.

    Returns:
        Places of the rows in `inputs`; `inputs`, None without any; place to reason of the others.
    """
    errors = {place: str(row) for place, row in enumerate(rows) if isinstance(row, RowError)}
    kept = [place for place in range(len(rows)) if place not in errors]
    try:
        return kept, _inputs(processor, [rows[place] for place in kept], longest) if kept else None, errors
    except Exception:  # noqa: BLE001  told below, by row
        pass
    for place in kept:
        try:
            _inputs(processor, [rows[place]], longest)
        except RowError as error:
            errors[place] = str(error)
        except Exception as error:  # noqa: BLE001  whatever image, template and processor make of a bad row
            errors[place] = f"cannot be made a prompt ({_words(error)})"
    kept = [place for place in kept if place not in errors]
    return kept, _inputs(processor, [rows[place] for place in kept], longest) if kept else None, errors


def _inputs(processor, rows: Sequence, longest: int):
    inputs = prompt_inputs(processor, rows)
    length = int(inputs["attention_mask"].sum(dim=1).max())
    if length > longest:
        raise RowError(
            f"the prompt has {length} tokens, more than the {longest} that leave room for an answer of "
            "`max_new_tokens` in the model's `max_position_embeddings`"
        )
    return inputs


def in_halves(function: Callable, processor, rows: Sequence, inputs, device) -> list:
    """
    `function(inputs, rows)`, a list with a result per row; where memory is too small for all rows, for half of them at
    a time. A row that does not fit alone has the error's words, a `str`, for a result.
    """
    try:
        return function(inputs, rows)
    except (RuntimeError, MemoryError) as error:
        words = _words(error)
        if not isinstance(error, MemoryError) and not any(sign in str(error) for sign in MEMORY_SIGNS):
            raise
    # Outside the handler, whose exception holds on to the tensors that were too many.
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
