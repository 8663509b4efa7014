"""Questions of several datasets as one sequence of rows, made when they are read."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate

from .._extras import require_extra


require_extra("eval", "datasets")

from datasets import Dataset  # noqa: E402


CHUNK = 100  # rows that are read at once, where all are read


class QuestionRows(Sequence):
    """
    Rows of one or several datasets, one after the other.

    Args:
        parts (`list[tuple[Sequence[dict], Callable]]`):
            Datasets, each with what makes a row of the row format from one of its rows and that row's index.

    Example:

    ```python
    >>> from hf_metis_home.tasks.rows import QuestionRows

    >>> numbers = [{"a": 1, "b": 2}, {"a": 3, "b": 4}]
    >>> rows = QuestionRows([(numbers, lambda row, index: {"id": str(index), "solution": str(row["a"] + row["b"])})])
    >>> rows[1]
    {'id': '1', 'solution': '7'}
    ```
    """

    def __init__(self, parts: Sequence[tuple[Sequence[dict], Callable[[dict, int], dict]]]):
        self.parts = parts
        self.ends = list(accumulate(len(rows) for rows, _ in parts))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __getitem__(self, index: int) -> dict:  # type: ignore[override]  # no slices
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = bisect_right(self.ends, index)
        rows, make_row = self.parts[part]
        index -= self.ends[part] - len(rows)
        return make_row(rows[index], index)

    def __iter__(self):
        for rows, make_row in self.parts:
            for index, row in enumerate(rows):
                yield make_row(row, index)


class _StoredRows(Sequence):
    """Rows of a dataset as they are stored: images stay dicts with `bytes` and `path`."""

    def __init__(self, rows: Dataset):
        self.rows = rows.with_format("arrow")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:  # type: ignore[override]  # no slices
        return self.rows[index].to_pylist()[0]

    def __iter__(self):
        for start in range(0, len(self), CHUNK):
            yield from self.rows[start : start + CHUNK].to_pylist()


def stored_rows(rows: Sequence[dict]) -> Sequence[dict]:
    """The same rows with their images as they are stored, not decoded: dicts with `bytes` and `path`."""
    if isinstance(rows, QuestionRows):
        return QuestionRows([(stored_rows(part), make_row) for part, make_row in rows.parts])
    return _StoredRows(rows) if isinstance(rows, Dataset) else rows


def gold_answers(row: dict) -> list:
    """The answers to a row of which any is right."""
    return list(row.get("solutions") or [row["solution"]])
