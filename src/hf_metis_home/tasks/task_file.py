"""
Task files: how to make questions from a dataset that is not in the row format.

A task file is YAML:

| key | meaning |
|---|---|
| `dataset` | a path or a Hub id; `config`, `split` and `revision` select a part of it |
| `columns` | the columns for `question` and `answer`, and optionally `images`, `choices`, `subject` and `id` |
| `answer` | what the answer column contains, see below; default: `text` |
| `choice_format` | how a choice is written below the question; default: `{letter}. {text}` |
| `image_mark` | how the question refers to an image, such as `<image {number}>`; default: images come first |

A column may be a field of a struct (`metadata.subject`). A list of columns is written as lines (`question`), joined by
dashes (`id`) or spaces (`subject`), or put together (`images`, `choices`); empty ones are left out.

| `answer` | the column contains |
|---|---|
| `text` | the answer; with choices, the text of the right one |
| `letter` | the letter of the right choice; without choices, the answer |
| `index` | the number of the right choice, from 0 |
| `any` | a list of answers, any of which is right |
| `yes_no` | yes or no, true or false, 1 or 0 |

The ones that ship are in `benchmarks/`; use them by name.
"""

import ast
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


SHIPPED = Path(__file__).parent / "benchmarks"
KEYS = ("dataset", "config", "split", "revision", "columns", "answer", "choice_format", "image_mark")
COLUMNS = ("question", "answer", "images", "choices", "subject", "id")
ANSWERS = ("text", "letter", "index", "any", "yes_no")
YES_NO = {"yes": "yes", "true": "yes", "1": "yes", "no": "no", "false": "no", "0": "no"}
LIST_OF_TEXTS = re.compile(r"\[\s*['\"].*\]", re.DOTALL)
EMPTY = ("", "nan")


class AnswerError(ValueError):
    """The gold answer of one row is unknown."""


@dataclass(frozen=True)
class TaskFile:
    """
    The contents of a task file.

    Args:
        name (`str`):
            Name of the task.
        path (`Path`):
            The file.
        dataset, config, split, revision (`str`, *optional*):
            Which dataset.
        columns (`dict[str, list[str]]`):
            Part of a question to its columns.
        answer, choice_format, image_mark (`str`):
            See the module; `image_mark` is None if questions do not refer to images.

    Example:

    ```python
    >>> from hf_metis_home.tasks.task_file import find_task_file, read_task_file

    >>> read_task_file(find_task_file("mmstar")).dataset
    'Lin-Chen/MMStar'
    ```
    """

    name: str
    path: Path
    dataset: str
    split: str
    columns: dict[str, list[str]]
    config: str | None = None
    revision: str | None = None
    answer: str = "text"
    choice_format: str = "{letter}. {text}"
    image_mark: str | None = None

    def check(self, rows) -> None:
        """Raise an error if the dataset lacks a column."""
        known = {*rows.features, *rows.features.flatten()}
        for what, columns in self.columns.items():
            if missing := [column for column in columns if column not in known]:
                raise ValueError(
                    f"{self.path}: `columns.{what}` is {missing[0]!r}, which {self.dataset} (split {self.split}) does "
                    f"not have; it has {list(rows.features)}. Write your own task file with the right column, or set "
                    "`revision` to a version of the dataset that has this one."
                )

    def make_row(self, row: dict, index: int) -> dict:
        """A row of the row format. If the gold answer is unknown, its `error` says why."""
        choices = self._choices(row)
        letters = [chr(ord("A") + number) for number in range(len(choices))]
        lines = [str(text) for text in self._values(row, "question")]
        lines += [self.choice_format.format(letter=a, text=text) for a, text in zip(letters, choices, strict=True)]
        values = self._values(row, "images")
        images = [image for value in values for image in (value if isinstance(value, list) else [value])]
        known = {
            "prompt": [{"role": "user", "content": self._content("\n".join(lines), len(images))}],
            "images": images,
            "task": self.name,
            "id": "-".join(map(str, self._values(row, "id"))) if "id" in self.columns else str(index),
            "subject": " ".join(map(str, self._values(row, "subject"))) or None,
        }
        try:
            solutions = self._solutions(row, choices, letters)
        except AnswerError as error:
            return {**known, "solution": "", "error": f"{self.path.name}: column {self.columns['answer'][0]!r} {error}"}
        return {**known, "solution": solutions[0], "solutions": solutions}

    def _values(self, row: dict, what: str) -> list:
        """The values of the columns, without empty ones."""
        values = [_value(row, column) for column in self.columns.get(what, ())]
        return [value for value in values if not (value is None or isinstance(value, str) and value.strip() in EMPTY)]

    def _choices(self, row: dict) -> list[str]:
        values = self._values(row, "choices")
        if len(self.columns.get("choices", ())) == 1 and values:
            [values] = values
            if isinstance(values, str):
                try:
                    values = ast.literal_eval(values)
                except (ValueError, SyntaxError):
                    values = [values]
        return [str(value).strip() for value in values]

    def _content(self, text: str, images: int):
        """The text, with places for the images that it refers to; plain text if all images come first."""
        if self.image_mark is None or not images:
            return text
        marks = {self.image_mark.format(number=number + 1): number for number in range(images)}
        parts, placed = [], []
        for piece in re.split("(" + "|".join(map(re.escape, marks)) + ")", text):
            number = marks.get(piece)
            if number is None or number in placed:
                parts.append({"type": "text", "text": piece})
            else:
                placed.append(number)
                parts.append({"type": "image"})
        if placed != sorted(placed) or len(placed) < images:
            return text  # out of order, or not all of them: all come first, in order
        return [part for part in parts if part.get("text") != ""]

    def _solutions(self, row: dict, choices: list[str], letters: list[str]) -> list[str]:
        values = self._values(row, "answer")
        if not values:
            raise AnswerError("is empty, so answers cannot be judged. Is this a split without gold answers?")
        [value] = values
        is_list = isinstance(value, str) and LIST_OF_TEXTS.fullmatch(value.strip())
        if self.answer == "any" or (is_list and not choices):
            value = ast.literal_eval(value.strip()) if is_list else value
            texts = [str(text).strip() for text in (value if isinstance(value, list) else [value])]
            if not any(texts):
                raise AnswerError(f"is {value!r}, which contains no answer")
            return [text for text in texts if text]
        text = str(value).strip()
        if self.answer == "yes_no":
            if text.casefold() not in YES_NO:
                raise AnswerError(f"is {value!r}, which is neither yes nor no")
            return [YES_NO[text.casefold()]]
        if not choices:
            if self.answer == "index":
                raise AnswerError(f"is {value!r}, the number of a choice, but there are no choices")
            return [text]
        names = {"text": choices, "letter": letters, "index": [str(number) for number in range(len(choices))]}
        if text not in names[self.answer]:
            raise AnswerError(f"is {value!r}, which is none of {names[self.answer]}")
        number = names[self.answer].index(text)
        return [f"({letters[number]}) {choices[number]}"]


def find_task_file(word: str) -> Path | None:
    """The task file for a path that ends in .yaml or the name of one that ships; None for other words."""
    if word.endswith((".yaml", ".yml")):
        if not Path(word).is_file():
            raise FileNotFoundError(f"`tasks` has {word!r}, which is not a file. Available by name: {shipped_tasks()}.")
        return Path(word)
    path = SHIPPED / f"{word}.yaml"
    return path if path.name == f"{word}.yaml" and path.is_file() else None


def shipped_tasks() -> list[str]:
    """Names of the task files that ship."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def read_task_file(path: Path) -> TaskFile:
    """Read a task file. The error names every wrong key."""
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(given, dict):
        raise ValueError(f"{path} has no `key: value` lines. A task file has {', '.join(KEYS)}.")
    columns = given.get("columns")
    columns = columns if isinstance(columns, dict) else {}
    errors = [f"there is no key `{key}`; there are {', '.join(KEYS)}." for key in given if key not in KEYS]
    errors += [f"`{key}` is missing." for key in ("dataset", "split", "columns") if not given.get(key)]
    errors += [f"`columns` has no `{key}`; it may have {', '.join(COLUMNS)}." for key in columns if key not in COLUMNS]
    errors += [f"`columns.{key}` is missing." for key in ("question", "answer") if columns and not columns.get(key)]
    if given.get("answer", "text") not in ANSWERS:
        errors.append(f"`answer` is {given['answer']!r}, but must be one of {', '.join(ANSWERS)}.")
    if errors:
        raise ValueError("\n".join(f"{path}: {error}" for error in errors))
    columns = {key: value if isinstance(value, list) else [value] for key, value in columns.items()}
    return TaskFile(path.stem, path, **{**given, "columns": columns})


def _value(row: dict, column: str):
    """The value of a column, or of a field of a struct (`metadata.subject`)."""
    value: Any = row
    for name in [column] if column in row else column.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value
