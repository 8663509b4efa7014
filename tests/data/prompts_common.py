"""Prompts with gold answers, and models whose answers are known."""

import io

from datasets import Dataset
from PIL import Image

from hf_metis_home.answers import AnswerFormat
from hf_metis_home.data.prompt_sets import PromptSet


def png(shade: int) -> dict:
    file = io.BytesIO()
    Image.new("RGB", (28, 28), (shade, 0, 0)).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def prompt_rows(tasks: dict[str, int], start: int = 0) -> list[dict]:
    """`what is 3 + 4`, with a picture for every second row."""
    rows = []
    for task, count in tasks.items():
        for _ in range(count):
            number = start + len(rows)
            rows.append(
                {
                    "prompt": [{"role": "user", "content": f"what is {number} + 4"}],
                    "images": [png(number)] if number % 2 else [],
                    "solution": str(number + 4),
                    "task": task,
                }
            )
    return rows


def prompt_set(tasks: dict[str, int], where: str = "dataset", start: int = 0, **columns) -> PromptSet:
    dataset = Dataset.from_list(prompt_rows(tasks, start))
    for name, values in columns.items():
        dataset = dataset.add_column(name, values)
    return PromptSet(dataset, where)


def right(number: int, steps: str = "step") -> str:
    return f"<think>{steps}</think><answer>{number + 4}</answer>"


WRONG = "<think>guess</think><answer>no idea</answer>"


class ScriptedModel:
    """Answers prompt `number` with `answers(number)`, and counts what it was asked."""

    answer_format = AnswerFormat()

    def __init__(self, answers, name: str = "scripted", stop_after: int | None = None):
        self.answers, self.settings, self.asked, self.stop_after = answers, {"model": name}, [], stop_after

    def probe(self, row):
        self.probed = row

    def roll_out(self, rows, indices, done, count):
        for index in indices:
            if index in done:
                continue
            if self.stop_after is not None and len(self.asked) == self.stop_after:
                raise KeyboardInterrupt
            self.asked.append(index)
            content = rows[index]["prompt"][-1]["content"]
            text = content if isinstance(content, str) else content[-1]["text"]
            texts = self.answers(int(text.split()[2]))
            yield index, (texts * count)[:count] if isinstance(texts, list) else [texts] * count
