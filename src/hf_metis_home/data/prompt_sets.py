"""Datasets of prompts with gold answers, checked before hours are spent on them."""

import hashlib
import json
from pathlib import Path

from ..answers.format import FORMAT, AnswerFormat, Completion
from ..answers.matching import TAGS, gold_text
from .rows import check_row


PROMPT_COLUMNS = ("prompt", "solution")


class PromptSet:
    """
    Checked prompts, with their images as they are stored.

    Args:
        dataset ([`~datasets.Dataset`]):
            Columns `prompt` (chat messages, or text for one user message) and `solution`; optional columns are
            `images` (list of images or paths), `task` and `expert_completion` (text).
        where (`str`):
            What errors call the dataset.

    Raises:
        ValueError: a missing column, no rows, or a row that cannot become a training row; the message names it.
    """

    def __init__(self, dataset, where: str):
        from datasets import Image, List

        if missing := [name for name in PROMPT_COLUMNS if name not in dataset.column_names]:
            raise ValueError(
                f"The {where} has no column {', '.join(map(repr, missing))}; it has {dataset.column_names}. "
                f"{list(PROMPT_COLUMNS)} are required; 'images', 'task' and 'expert_completion' are optional."
            )
        if len(dataset) == 0:
            raise ValueError(f"The {where} has no rows. Use one with prompts and gold answers.")
        if "images" in dataset.column_names:
            dataset = dataset.cast_column("images", List(Image(decode=False)))
        self.dataset, self.where = dataset, where
        self.tasks, self.solutions, digest = [], [], hashlib.blake2b(digest_size=16)
        for index in range(len(dataset)):
            row = self[index]
            self.tasks.append(row["task"])
            self.solutions.append(row["solution"])
            self._check(row, index)
            digest.update(json.dumps([row["prompt"], row["solution"]], sort_keys=True).encode())
            for image in row["images"]:
                digest.update(image["bytes"])
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict:
        """A row with `prompt`, `images` (dicts with `bytes`), `solution`, `task` and `expert_completion`."""
        row = self.dataset[index]
        prompt = row["prompt"]
        if isinstance(prompt, str):
            prompt = [{"role": "user", "content": prompt}]
        return {
            "prompt": [_without_nones(message) for message in prompt] if _is_list_of_dicts(prompt) else prompt,
            "images": [self._stored(image, index) for image in row.get("images") or []],
            "solution": row["solution"],
            "task": row.get("task") or "default",
            "expert_completion": row.get("expert_completion"),
        }

    def _check(self, row: dict, index: int) -> None:
        where = f"Row {index} of the {self.where}, column"
        gold_text(row["solution"], name=f"{where} 'solution':")
        try:
            direct = training_row(row)
        except ValueError as error:
            raise ValueError(f"{where} 'solution': {error}") from error
        if not isinstance(expert := row["expert_completion"], (str, type(None))):
            raise ValueError(
                f"{where} 'expert_completion': {str(expert)[:80]!r} is not text. Write "
                "<think>…</think><answer>…</answer>, or nothing if there is no expert's answer."
            )
        check_row(direct, index, self.where)

    def _stored(self, image: dict, index: int) -> dict:
        content, path = image.get("bytes"), Path(image.get("path") or "")
        if not content and not path.is_file():
            raise FileNotFoundError(
                f"Row {index} of the {self.where}, column 'images': there is no file {str(path)!r}. Paths are relative "
                "to the folder in which the command runs."
            )
        return {"bytes": content or path.read_bytes(), "path": None}


def training_row(row: dict, trace: Completion | None = None, answer_format: AnswerFormat = FORMAT) -> dict:
    """A training row from a prompt and a trace, or without one, with its gold answer as a direct answer."""
    thought, answer = None, row["solution"].strip().removeprefix(TAGS[2]).removesuffix(TAGS[3]).strip()
    if trace is not None:
        thought, answer = trace.thought, trace.answer
    completion = [{"role": "assistant", "content": answer_format.render(thought, answer)}]
    columns = {name: row[name] for name in ("prompt", "images", "solution", "task")}
    return {**columns, "completion": completion, "thinking": bool(thought)}


def _is_list_of_dicts(value) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _without_nones(message: dict) -> dict:
    """`datasets` gives every part all keys of its column, but chat templates look at which keys are there."""
    content = message.get("content")
    if _is_list_of_dicts(content):
        content = [{name: value for name, value in part.items() if value is not None} for part in content]
    return {"role": message.get("role"), "content": content}
