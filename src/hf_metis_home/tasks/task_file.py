"""
Task files: what makes questions of a dataset that is not in the row format.

A task file is YAML:

| key | meaning |
|---|---|
| `dataset` | a path or a Hub id; `config`, `split` and `revision` say which part of it |
| `columns` | which column holds what: `question`, `answer`, and if there are any `images`, `choices`, `subject`, `id` |
| `answer` | what the answer column holds, see below; `text` by default |
| `choice_format` | how a choice is written below the question; `{letter}. {text}` by default |
| `image_mark` | how the question names an image, such as `<image {number}>`; else images stand in front |

A column may be one of a struct (`metadata.subject`). Several columns, as a list, are written one below the other
(`question`), joined by a dash (`id`), or taken together (`images`, `choices`); empty ones are left out.

| `answer` | the column holds |
|---|---|
| `text` | the answer; where there are choices, the text of the right one |
| `letter` | the letter of the right choice; where there are no choices, the answer |
| `index` | the number of the right choice, from 0 |
| `any` | a list of answers, any of which is right |
| `yes_no` | yes or no, true or false, 1 or 0 |

Those that ship are in `tasks/`, and are used by their names.
"""

import ast
import re
from dataclasses import dataclass
from pathlib import Path

import yaml


SHIPPED = Path(__file__).parent / "benchmarks"
KEYS = ("dataset", "config", "split", "revision", "columns", "answer", "choice_format", "image_mark")
COLUMNS = ("question", "answer", "images", "choices", "subject", "id")
ANSWERS = ("text", "letter", "index", "any", "yes_no")
YES_NO = {"yes": "yes", "true": "yes", "1": "yes", "no": "no", "false": "no", "0": "no"}
LIST_OF_TEXTS = re.compile(r"\[\s*['\"].*\]", re.DOTALL)
EMPTY = ("", "nan")


class AnswerError(ValueError):
    """The gold answer of one row cannot be told."""


@dataclass(frozen=True)
class TaskFile:
    """
    A task file that was read.

    Args:
        name (`str`):
            The task's.
        path (`Path`):
            Where it was read from.
        dataset, config, split, revision (`str`, *optional*):
            Which dataset.
        columns (`dict[str, list[str]]`):
            What to the columns that hold it.
        answer, choice_format, image_mark (`str`):
            As the module says; `image_mark` is None where questions name no images.

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
    config: str | None
    split: str
    revision: str | None
    columns: dict[str, list[str]]
    answer: str
    choice_format: str
    image_mark: str | None

    def check(self, rows) -> None:
        """An error where the dataset lacks a column."""
        for what, columns in self.columns.items():
            for column in columns:
                if not _has_column(rows.features, column):
                    raise ValueError(
                        f"{self.path}: `columns.{what}` is {column!r}, which {self.dataset} (split {self.split}) does "
                        f"not have; it has {list(rows.features)}. Name the column that holds the {what} in a task file "
                        "of your own, or set `revision` to a version of the dataset that has it."
                    )

    def make_row(self, row: dict, index: int) -> dict:
        """
        A row of the row format. Where the gold answer cannot be told, its `error` says why.
        """
        choices = self._choices(row)
        lines = [str(text) for text in self._values(row, "question")]
        letters = [chr(ord("A") + number) for number in range(len(choices))]
        lines += [
            self.choice_format.format(letter=letter, text=text) for letter, text in zip(letters, choices, strict=True)
        ]
        images = [
            image for value in self._values(row, "images") for image in (value if isinstance(value, list) else [value])
        ]
        subjects = [str(value) for value in self._values(row, "subject")]
        made = {
            "prompt": [{"role": "user", "content": self._content("\n".join(lines), len(images))}],
            "images": images,
            "task": self.name,
            "id": "-".join(str(value) for value in self._values(row, "id")) if "id" in self.columns else str(index),
            "subject": " ".join(subjects) or None,
        }
        try:
            solutions = self._solutions(row, choices, letters)
        except AnswerError as error:
            return {**made, "solution": "", "error": f"{self.path.name}: column {self.columns['answer'][0]!r} {error}"}
        return {**made, "solution": solutions[0], "solutions": solutions}

    def _values(self, row: dict, what: str) -> list:
        """What the columns hold, without what is empty."""
        values = [_value(row, column) for column in self.columns.get(what, ())]
        return [
            value for value in values if value is not None and not (isinstance(value, str) and value.strip() in EMPTY)
        ]

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
        """The text, with places for the images where it names them; text alone has the images in front."""
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
            return text  # out of their order, or not all of them named: all in front, in order
        return [part for part in parts if part.get("text") != ""]

    def _solutions(self, row: dict, choices: list[str], letters: list[str]) -> list[str]:
        values = self._values(row, "answer")
        if not values:
            raise AnswerError("is empty, so an answer could not be judged. Is this a split without gold answers?")
        [value] = values
        if self.answer == "any" or (isinstance(value, str) and not choices and LIST_OF_TEXTS.fullmatch(value.strip())):
            if isinstance(value, str) and LIST_OF_TEXTS.fullmatch(value.strip()):
                value = ast.literal_eval(value.strip())
            found = [str(text).strip() for text in (value if isinstance(value, list) else [value])]
            if not any(found):
                raise AnswerError(f"is {value!r}, which holds no answer")
            return [text for text in found if text]
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
    """The task file of a word: a path that ends in .yaml, or the name of one that ships. None for other words."""
    if word.endswith((".yaml", ".yml")):
        if not Path(word).is_file():
            raise FileNotFoundError(f"`tasks` has {word!r}, which is no file. Those that ship are {shipped_tasks()}.")
        return Path(word)
    path = SHIPPED / f"{word}.yaml"
    return path if path.name == f"{word}.yaml" and path.is_file() else None


def shipped_tasks() -> list[str]:
    """Names of the task files that ship."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def read_task_file(path: Path) -> TaskFile:
    """Read a task file. An error names every key that is wrong."""
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML: {error}") from error
    if not isinstance(given, dict):
        raise ValueError(f"{path} holds no `key: value` lines. A task file has {', '.join(KEYS)}.")
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
    return TaskFile(
        name=path.stem,
        path=path,
        dataset=given["dataset"],
        config=given.get("config"),
        split=given["split"],
        revision=given.get("revision"),
        columns={key: value if isinstance(value, list) else [value] for key, value in columns.items()},
        answer=given.get("answer", "text"),
        choice_format=given.get("choice_format", "{letter}. {text}"),
        image_mark=given.get("image_mark"),
    )


def _value(row: dict, column: str):
    if column in row:
        return row[column]
    value = row
    for name in column.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _has_column(features, column: str) -> bool:
    if column in features:
        return True
    for name in column.split("."):
        if not isinstance(features, dict) or name not in features:
            return False
        features = features[name]
    return True
