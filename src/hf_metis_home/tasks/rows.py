"""What a row says about its question."""

from collections.abc import Sequence
from typing import Any

from .._extras import require_extra


require_extra("eval", "datasets")

from datasets import Dataset  # noqa: E402


def stored_rows(rows: Sequence[dict]) -> Sequence[dict]:
    """Rows with their images as they are stored, not decoded: dicts with `bytes` and `path`."""
    return rows.with_format("arrow")[:].to_pylist() if isinstance(rows, Dataset) else rows


def question_names(row: dict, number: int) -> dict[str, Any]:
    """The `task`, `id` (`number` if the row has none) and `subject` of a row, as text."""
    names = {"task": row["task"], "id": number if row.get("id") is None else row["id"], "subject": row.get("subject")}
    return {name: None if value is None else str(value) for name, value in names.items()}


def gold_answers(row: dict) -> list:
    """The answers to a row, of which any is right."""
    return list(row.get("solutions") or [row["solution"]])
