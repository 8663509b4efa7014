"""The questions that `metis-home eval` asks: from where a user says, as rows, and as a table to show them later."""

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path

from .._extras import require_extra
from ..data.loading import load_rows
from ..data.rollouts import seed_of
from ..evaluation.batches import open_image, text_of
from .rows import QuestionRows, gold_answers, stored_rows
from .task_file import find_task_file, read_task_file, shipped_tasks


REASONING_GYM = "reasoning_gym:"
QUESTIONS = 50  # of a task that makes its own, where no limit is given
IMAGE_SIDE = 256  # pixels, of the images that are kept
CHUNK = 200  # questions that are written at once


def load_questions(
    tasks: list[str] | None, *, split: str = "test", limit: int | None = None, seed: int = 0
) -> tuple[QuestionRows, dict[str, dict]]:
    """
    Rows of the tasks, one task after the other.

    Args:
        tasks (`list[str]`, *optional*):
            Names of the miniature's tasks, all of them by default; a task file's path, or the name of one that ships;
            `reasoning_gym:FAMILY`; a dataset in the row format, as [`~data.loading.load_rows`] reads it.
        split (`str`, *optional*, defaults to `"test"`):
            Of a dataset in the row format that has several. A task file names its own.
        limit (`int`, *optional*):
            Questions of each task: the first ones of a dataset. So many are made where questions are made, 50 by
            default.
        seed (`int`, *optional*, defaults to 0):
            Seed of questions that are made.

    Returns:
        [`~tasks.rows.QuestionRows`], and for tasks from the Hub where they come from: `dataset`, `config`,
        `split`, `revision`.

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
        from ..miniature.tasks import TASKS

        tasks = list(TASKS)
    if twice := sorted({task for task in tasks if tasks.count(task) > 1}):
        raise ValueError(f"`tasks` has {', '.join(map(repr, twice))} more than once.")
    parts, sources = [], {}
    for word in tasks:
        if word.startswith(REASONING_GYM):
            parts.append((_reasoning_gym_rows(word, limit or QUESTIONS, seed), _as_it_is))
        elif word in _miniature_tasks():
            parts.append((_miniature_rows(word, limit or QUESTIONS, seed), _as_it_is))
        elif path := find_task_file(word):
            task = read_task_file(path)
            rows = load_rows(
                task.dataset, task.split, argument=f"{path}: dataset", config=task.config, revision=task.revision
            )
            task.check(rows)
            rows = _first(rows, limit)
            _check_answers(task, rows)
            parts.append((rows, task.make_row))
            if not Path(task.dataset).exists():
                source = {name: getattr(task, name) for name in ("dataset", "config", "split", "revision")}
                sources[task.name] = {name: value for name, value in source.items() if value is not None}
        else:
            parts.append((_first(_row_format(word, split), limit), _as_it_is))
    return QuestionRows(parts), sources


def _as_it_is(row: dict, index: int) -> dict:
    return {**row, "id": str(index) if row.get("id") is None else str(row["id"])}


def _first(rows, limit: int | None):
    return rows if limit is None else rows.select(range(min(limit, len(rows))))


def _row_format(word: str, split: str):
    try:
        rows = load_rows(word, split, argument="tasks")
    except ValueError as error:
        if Path(word).exists() or "/" in word:
            raise
        known = [*_miniature_tasks(), *shipped_tasks()]
        raise ValueError(
            f"`tasks` has {word!r}, which is no task and no dataset. There are {', '.join(known)}, "
            f"{REASONING_GYM}FAMILY, task files (.yaml), and datasets by path or Hub id."
        ) from error
    if missing := [name for name in ("prompt", "solution", "task") if name not in rows.column_names]:
        raise ValueError(
            f"`tasks` has {word!r}, which has no column {', '.join(map(repr, missing))}; it has {rows.column_names}. "
            "Give rows in the row format, or a task file that says which column holds what."
        )
    return rows


def _miniature_tasks() -> tuple[str, ...]:
    try:
        require_extra("demo", "easy_vqa", "sklearn", "matplotlib")
    except ImportError:
        return ()
    from ..miniature.tasks import TASKS

    return TASKS


def _miniature_rows(task: str, count: int, seed: int):
    from ..miniature.tasks import make_dataset

    # A seed for each task, so that its questions do not depend on the others that are asked for.
    return make_dataset({task: count}, "test", seed_of(seed, task))


def _reasoning_gym_rows(word: str, count: int, seed: int) -> list[dict]:
    require_extra("eval", "reasoning_gym")
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    family = word.removeprefix(REASONING_GYM)
    if family not in DATASETS:
        raise ValueError(
            f"`tasks` has {word!r}, but reasoning-gym has no family {family!r}; it has {sorted(DATASETS)}."
        )
    made = reasoning_gym.create_dataset(family, size=count, seed=seed)

    def verifier(entry: dict):
        def is_right(answer: str) -> bool:
            try:
                return made.score_answer(answer, entry) >= 1.0
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
        for entry in made
    ]


def _check_answers(task, rows) -> None:
    """An error where no row has a gold answer: a split that keeps them back, or a wrong `answer` key."""
    stored = stored_rows(rows)
    reason = None
    for index in range(len(rows)):
        row = task.make_row(stored[index], index)
        if "error" not in row:
            return
        reason = reason or row["error"]
    if reason:
        raise ValueError(
            f"{task.path}: none of the {len(rows)} rows of {task.dataset} (split {task.split}) has a gold answer that "
            f"fits `answer: {task.answer}`. The first: {reason}. Name another split, column or kind of answer."
        )


def fingerprint(rows: Sequence[dict]) -> str:
    """A hash of all questions: texts, gold answers and images as they are stored."""
    digest = hashlib.sha256()
    for row in stored_rows(rows):
        kept = [row.get(name) for name in ("task", "id", "subject", "prompt", "solution", "solutions", "error")]
        digest.update(json.dumps(kept, sort_keys=True, default=str).encode())
        for image in row.get("images") or []:
            stored = (
                image.get("bytes") or str(image.get("path")).encode()
                if isinstance(image, dict)
                else repr(image).encode()
            )
            digest.update(hashlib.sha256(stored).digest())
    return digest.hexdigest()


def write_questions(rows: Sequence[dict], path: str | Path) -> Path:
    """
    Write what a report shows of the questions, as parquet: `task`, `id`, `subject`, `question` (text of the last
    message), `solution`, `image` (the first one as PNG bytes, its longer side at most 256 pixels; null where there is
    none, or it cannot be decoded).
    """
    import pyarrow
    from pyarrow import parquet

    schema = pyarrow.schema(
        [
            *((name, pyarrow.string()) for name in ("task", "id", "subject", "question", "solution")),
            ("image", pyarrow.binary()),
        ]
    )
    stored = stored_rows(rows)
    with parquet.ParquetWriter(path, schema) as writer:
        for start in range(0, len(rows), CHUNK):
            chunk = [_shown(stored[number], number) for number in range(start, min(start + CHUNK, len(rows)))]
            writer.write_table(pyarrow.Table.from_pylist(chunk, schema))
    return Path(path)


def _shown(row: dict, number: int) -> dict:
    return {
        "task": str(row["task"]),
        "id": str(number) if row.get("id") is None else str(row["id"]),
        "subject": None if row.get("subject") is None else str(row["subject"]),
        "question": text_of(row["prompt"][-1]["content"]),
        "solution": " or ".join(map(str, gold_answers(row))),
        "image": _thumbnail(row["images"][0]) if row.get("images") else None,
    }


def _thumbnail(image) -> bytes | None:
    file = io.BytesIO()
    try:
        small = open_image(image).convert("RGB")
        small.thumbnail((IMAGE_SIDE, IMAGE_SIDE))
        small.save(file, "PNG")
    except Exception:  # noqa: BLE001  of the many libraries that decode images; the outcome of the row tells the reason
        return None
    return file.getvalue()
