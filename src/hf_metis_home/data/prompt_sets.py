"""Datasets of prompts with gold answers, read and checked before hours are spent on them."""

import hashlib
import json
from pathlib import Path

from ..answers.format import AnswerFormat
from ..answers.matching import gold_text
from .rows import check_row


PROMPT_COLUMNS = ("prompt", "solution")


class PromptSet:
    """
    Prompts, checked, with their images as they are stored.

    Args:
        dataset ([`~datasets.Dataset`]):
            Columns `prompt` (chat messages, or text for one user message) and `solution`; where they are there also
            `images` (list of images or paths), `task` and `expert_completion` (text).
        where (`str`):
            How an error names the dataset.

    Raises:
        ValueError: a missing column, no rows, or a row that cannot become a training row; the message names it.
    """

    def __init__(self, dataset, where: str):
        from datasets import Image, List

        if missing := [name for name in PROMPT_COLUMNS if name not in dataset.column_names]:
            raise ValueError(
                f"The {where} has no column {', '.join(map(repr, missing))}; it has {dataset.column_names}. It needs "
                f"{list(PROMPT_COLUMNS)}, and may have 'images', 'task' and 'expert_completion'."
            )
        if len(dataset) == 0:
            raise ValueError(f"The {where} has no rows. Give one with prompts and gold answers.")
        if "images" in dataset.column_names:
            dataset = dataset.cast_column("images", List(Image(decode=False)))
        self.dataset, self.where = dataset, where
        self.has_experts = "expert_completion" in dataset.column_names
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

    def direct_row(self, index: int) -> dict:
        """The row that answers at once, from the gold answer."""
        row = self[index]
        return training_row(row, None, direct_answer(row["solution"]))

    def _check(self, row: dict, index: int) -> None:
        gold_text(row["solution"], name=f"Row {index} of the {self.where}, column 'solution':")
        try:
            direct = training_row(row, None, direct_answer(row["solution"]))
        except ValueError as error:
            raise ValueError(f"Row {index} of the {self.where}, column 'solution': {error}") from error
        if not isinstance(expert := row["expert_completion"], (str, type(None))):
            raise ValueError(
                f"Row {index} of the {self.where}, column 'expert_completion': {str(expert)[:80]!r} is no text. Write "
                "<think>…</think><answer>…</answer>, or nothing where there is no expert's answer."
            )
        check_row(direct, index, self.where)

    def _stored(self, image: dict, index: int) -> dict:
        if image.get("bytes"):
            return {"bytes": image["bytes"], "path": None}
        path = Path(image.get("path") or "")
        if not path.is_file():
            raise FileNotFoundError(
                f"Row {index} of the {self.where}, column 'images': {str(path)!r} is no file. Paths are relative to "
                "the folder where the command runs."
            )
        return {"bytes": path.read_bytes(), "path": None}


def training_row(row: dict, thought: str | None, answer: str) -> dict:
    """A row of the row format from a prompt and what answers it."""
    return {
        "prompt": row["prompt"],
        "images": row["images"],
        "completion": [{"role": "assistant", "content": AnswerFormat().render(thought, answer)}],
        "thinking": bool(thought),
        "solution": row["solution"],
        "task": row["task"],
    }


def direct_answer(solution: str) -> str:
    """A gold answer as it stands in a direct answer: as it is, but without answer tags around it."""
    begin, end = AnswerFormat.answer_tags
    return solution.strip().removeprefix(begin).removesuffix(end).strip()


def _is_list_of_dicts(value) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _without_nones(message: dict) -> dict:
    """`datasets` gives every part all keys of its column; a chat template goes by which keys are there."""
    content = message.get("content")
    if _is_list_of_dicts(content):
        content = [{name: value for name, value in part.items() if value is not None} for part in content]
    return {"role": message.get("role"), "content": content}
