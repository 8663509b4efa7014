"""The questions that `metis-home eval` asks: read from anywhere as rows, and kept as a table to show them later."""

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path

from .._extras import require_extra
from ..data.images import decode_image
from ..data.loading import load_rows
from ..data.rollouts import seed_of
from ..data.rows import text_of
from .rows import gold_answers, question_names, stored_rows
from .task_file import find_task_file, read_task_file, shipped_tasks


REASONING_GYM = "reasoning_gym:"
QUESTIONS = 50  # of a task that generates its questions, unless there is a limit
IMAGE_SIDE = 256  # pixels, of the images that are kept
CHUNK = 200  # questions that are written at once


def load_questions(
    tasks: list[str] | None, *, split: str = "test", limit: int | None = None, seed: int = 0
) -> tuple[list[dict], dict[str, dict]]:
    """
    Rows of the tasks, one task after the other.

    Args:
        tasks (`list[str]`, *optional*):
            Names of the miniature's tasks (default: all of them); the path of a task file, or the name of one that
            ships; `reasoning_gym:FAMILY`; a dataset in the row format, as [`~data.loading.load_rows`] reads it.
        split (`str`, *optional*, defaults to `"test"`):
            Split of a dataset in the row format that has several. A task file names its own.
        limit (`int`, *optional*):
            Questions per task: the first ones of a dataset, or how many to generate (default: 50).
        seed (`int`, *optional*, defaults to 0):
            Seed of generated questions.

    Returns:
        `list[dict]`: the rows, each with an `id`, and images as they are stored: dicts with `bytes` and `path`.
        `dict`: for tasks from the Hub their `dataset`, `config`, `split` and `revision`.

    Raises:
        ValueError: a source that cannot be read, or lacks a column.

    Example:

    ```python
    >>> from hf_metis_home.tasks.questions import load_questions

    >>> rows, _ = load_questions(["corner"], limit=2)
    >>> rows[1]["prompt"][0]["content"]
    'which digit is at the top left?'
    ```
    """
    if limit is not None and limit < 1:
        raise ValueError(f"`limit` is {limit}, but must be at least 1.")
    if tasks is None:
        require_extra("demo", "easy_vqa", "sklearn", "matplotlib")
        tasks = list(_miniature_tasks())
    if repeated := sorted({task for task in tasks if tasks.count(task) > 1}):
        raise ValueError(f"`tasks` has {', '.join(map(repr, repeated))} more than once.")
    rows: list[dict] = []
    sources: dict[str, dict] = {}
    found: Sequence[dict]
    for word in tasks:
        if word.startswith(REASONING_GYM):
            found = _reasoning_gym_rows(word, limit or QUESTIONS, seed)
        elif word in _miniature_tasks():
            from ..miniature.tasks import make_dataset

            # A seed for each task, so that its questions do not depend on which other tasks are asked for.
            found = stored_rows(make_dataset({word: limit or QUESTIONS}, "test", seed_of(seed, word)))
        elif path := find_task_file(word):
            found, source = _task_file_rows(path, limit)
            sources |= source
        else:
            found = stored_rows(_row_format(word, split, limit))
        rows += [{**row, "id": question_names(row, index)["id"]} for index, row in enumerate(found)]
    return rows, sources


def _task_file_rows(path: Path, limit: int | None) -> tuple[list[dict], dict[str, dict]]:
    """Rows of a task file, and by its name the dataset on the Hub that they come from, if they do."""
    task = read_task_file(path)
    dataset = load_rows(task.dataset, task.split, f"{path}: dataset", task.config, task.revision, limit)
    task.check(dataset)
    rows = [task.make_row(row, index) for index, row in enumerate(stored_rows(dataset))]
    if rows and all("error" in row for row in rows):
        raise ValueError(
            f"{path}: none of the {len(rows)} rows of {task.dataset} (split {task.split}) has a gold answer that "
            f"fits `answer: {task.answer}`. The first: {rows[0]['error']}. Use another split, column or kind of answer."
        )
    source = {name: getattr(task, name) for name in ("dataset", "config", "split", "revision")}
    known = {name: value for name, value in source.items() if value is not None}
    return rows, {} if Path(task.dataset).exists() else {task.name: known}


def _row_format(word: str, split: str, limit: int | None):
    try:
        rows = load_rows(word, split, "tasks", limit=limit)
    except ValueError as error:
        if Path(word).exists() or "/" in word:
            raise
        known = [*_miniature_tasks(), *shipped_tasks()]
        raise ValueError(
            f"`tasks` has {word!r}, which is not a known task or dataset. Known are {', '.join(known)}, "
            f"{REASONING_GYM}FAMILY, task files (.yaml), and datasets by path or Hub id."
        ) from error
    if missing := [name for name in ("prompt", "solution", "task") if name not in rows.column_names]:
        raise ValueError(
            f"`tasks` has {word!r}, which has no column {', '.join(map(repr, missing))}; it has {rows.column_names}. "
            "Use rows in the row format, or write a task file that maps the columns."
        )
    return rows


def _miniature_tasks() -> tuple[str, ...]:
    try:
        require_extra("demo", "easy_vqa", "sklearn", "matplotlib")
    except ImportError:
        return ()
    from ..miniature.tasks import TASKS

    return TASKS


def _reasoning_gym_rows(word: str, count: int, seed: int) -> list[dict]:
    require_extra("eval", "reasoning_gym")
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    family = word.removeprefix(REASONING_GYM)
    if family not in DATASETS:
        raise ValueError(f"`tasks` has {word!r}, but the families of reasoning-gym are {sorted(DATASETS)}.")
    generated = reasoning_gym.create_dataset(family, size=count, seed=seed)

    def verifier(entry: dict):
        def is_right(answer: str) -> bool:
            try:
                return generated.score_answer(answer, entry) >= 1.0
            except Exception:  # noqa: BLE001  an answer that the family's verifier cannot read
                return False

        return is_right

    return [
        {
            "prompt": [{"role": "user", "content": entry["question"]}],
            "images": [],
            "solution": "" if entry["answer"] is None else str(entry["answer"]),
            "task": word,
            "verifier": verifier(entry),
        }
        for entry in generated
    ]


def fingerprint(rows: Sequence[dict]) -> str:
    """A hash of all questions: texts, gold answers and images as they are stored."""
    digest = hashlib.sha256()
    for row in stored_rows(rows):
        kept = [row.get(name) for name in ("task", "id", "subject", "prompt", "solution", "solutions", "error")]
        digest.update(json.dumps(kept, sort_keys=True, default=str).encode())
        for image in row.get("images") or []:
            path = image.get("path") if isinstance(image, dict) else repr(image)
            pixels = image.get("bytes") if isinstance(image, dict) else None
            digest.update(hashlib.sha256(pixels or str(path).encode()).digest())
    return digest.hexdigest()


def write_questions(rows: list[dict], path: str | Path) -> Path:
    """
    Write what a report shows of the questions, as Parquet: `task`, `id`, `subject`, `question` (text of the last
    message), `solution`, `image` (the first one as PNG bytes, its longer side at most 256 pixels; null if there is
    none, or it cannot be decoded).
    """
    import pyarrow
    from pyarrow import parquet

    texts = dict.fromkeys(("task", "id", "subject", "question", "solution"), pyarrow.string())
    schema = pyarrow.schema(texts | {"image": pyarrow.binary()})
    with parquet.ParquetWriter(path, schema) as writer:
        for start in range(0, len(rows), CHUNK):
            chunk = [_shown(row, number) for number, row in enumerate(rows[start : start + CHUNK], start)]
            writer.write_table(pyarrow.Table.from_pylist(chunk, schema))
    return Path(path)


def _shown(row: dict, number: int) -> dict:
    return {
        **question_names(row, number),
        "question": text_of(row["prompt"][-1]["content"]),
        "solution": " or ".join(map(str, gold_answers(row))),
        "image": _thumbnail(row["images"][0]) if row.get("images") else None,
    }


def _thumbnail(image) -> bytes | None:
    file = io.BytesIO()
    try:
        small = decode_image(image).convert("RGB")
        small.thumbnail((IMAGE_SIDE, IMAGE_SIDE))
        small.save(file, "PNG")
    except Exception:  # noqa: BLE001  of the many libraries that decode images; the outcomes give the reason
        return None
    return file.getvalue()
