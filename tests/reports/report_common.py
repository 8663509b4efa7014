"""Outcomes made up for the report's tests: right and wrong answers in known places."""

import io
import json
from pathlib import Path

import pyarrow
from datasets import Dataset
from PIL import Image
from pyarrow import parquet

from hf_metis_home.evaluation.outcomes import COLUMNS, FEATURES, write_outcomes


def outcome(number: int, **values) -> dict:
    """
    Question `number`. Of four in a row, thinking alone is right about the first two, both about the third, the direct
    answer alone about the last; the router would think about the first and the last.
    """
    kind = number % 4
    thinking, direct = kind != 3, kind >= 2
    return {
        **dict.fromkeys(COLUMNS),
        "task": "sums",
        "id": str(number),
        "sample": 0,
        "thinking_probability": (0.9, 0.2, 0.1, 0.8)[kind],
        "correct_thinking": thinking,
        "correct_non_thinking": direct,
        "tokens_thinking": 30,
        "tokens_non_thinking": 6,
        "seconds_thinking": 0.3,
        "seconds_non_thinking": 0.06,
        "text_thinking": f"<think>steps {number}</think><answer>{'7' if thinking else '8'}</answer>",
        "text_non_thinking": f"<think></think><answer>{'7' if direct else '8'}</answer>",
        **values,
    }


def dense_outcome(number: int, **values) -> dict:
    """The same of a dense model that answers every other question with a thought."""
    other = "non_thinking" if number % 2 else "thinking"
    empty = {f"{name}_{other}": None for name in ("correct", "tokens", "seconds", "text")}
    return outcome(number, **empty, thinking_probability=None, **values)


def write_folder(folder: Path, rows: list[dict], questions: dict | None = None, run: dict | None = None) -> Path:
    """
    What `metis-home eval` leaves behind.

    Args:
        questions (`dict`, *optional*):
            Columns that every question has; `{}` for a plain one. None leaves `questions.parquet` out.
    """
    write_outcomes(Dataset.from_list(rows, features=FEATURES), folder / "outcomes.parquet")
    if questions is not None:
        buffer = io.BytesIO()
        Image.new("RGB", (56, 56), (200, 10, 10)).save(buffer, "PNG")
        plain = {"question": "how much is it?", "solution": "7", "image": buffer.getvalue()}
        table = [{**{name: row[name] for name in ("task", "id", "subject")}, **plain, **questions} for row in rows]
        parquet.write_table(pyarrow.Table.from_pylist(table), folder / "questions.parquet")
    if run is not None:
        (folder / "run.json").write_text(json.dumps(run))
    return folder
