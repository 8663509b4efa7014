"""
The miniature's tasks, in the row format.

- **easy**, for direct answers: `shapes` (easy-vqa's questions), `corner` (the digit at the top left), `digits` (read
  all four), `words` (read four letters).
- **hard**, where written steps help and direct answers stay near chance: `chain` (((a . b) . c) . d with the
  operations given in the question: `+` and `*` for the last digit of sum and product, `-` for the difference) and
  `squares` (last digit of the sum of the four squares).
- **located**: one question for all images, "what is the result?". Where the digit at the top left is below 5, it is
  that digit (`located_easy`); else the last digit of the sum of squares (`located_hard`). Only the image tells which.
- `caption`, only to train the base: naming colour and shape gives a small vision tower a start.
"""

import io
import random
from typing import Literal

from datasets import Dataset, Features, Image, List, Value

from ..answers import AnswerFormat
from .images import digit_grid, shape_captions, shape_image, shape_questions, word_image, word_of


EASY_TASKS = ("shapes", "corner", "digits", "words")
HARD_TASKS = ("chain", "squares")
LOCATED_TASKS = ("located_easy", "located_hard")
TASKS = EASY_TASKS + HARD_TASKS + LOCATED_TASKS
THINKING_TASKS = HARD_TASKS + ("located_hard",)
MAX_ANSWER_TOKENS = 48  # enough for the written steps and the answer of any task

OPERATIONS = {"+": lambda a, b: (a + b) % 10, "-": lambda a, b: abs(a - b), "*": lambda a, b: a * b % 10}
MESSAGE = {"role": Value("string"), "content": Value("string")}
FEATURES = Features(
    {
        "prompt": List(MESSAGE),
        "images": List(Image()),
        "completion": List(MESSAGE),
        "thinking": Value("bool"),
        "solution": Value("string"),
        "task": Value("string"),
    }
)


def make_row(task: str, split: str, rng: random.Random, thinking: bool | None = None) -> dict:
    """
    One row.

    Args:
        task (`str`):
            One of `TASKS`, or `"caption"` (training split only).
        split (`str`):
            `"train"`, `"dev"` or `"test"`: where the images come from.
        rng (`random.Random`):
            Chooses image and question.
        thinking (`bool`, *optional*):
            Whether the completion contains the steps; by default if the task needs them.
    """
    thought = None
    if task == "caption":
        solution, image = rng.choice(shape_captions())
        question, image = "describe the picture", shape_image(image, split)
    elif task == "shapes":
        question, solution, image = rng.choice(shape_questions(split))
        image = shape_image(image, split)
    elif task == "words":
        word = word_of(split, rng)
        question, solution, image = "read the letters", " ".join(word), word_image(word, rng)
    else:
        digits = [rng.randrange(10) for _ in range(4)]
        if task in LOCATED_TASKS:
            digits[0] = rng.randrange(5) + 5 * (task == "located_hard")
        image = digit_grid(digits, split, rng)
        question, solution, thought = _digit_task(task, digits, rng)
    if not (task in THINKING_TASKS if thinking is None else thinking):
        thought = None
    return {
        "prompt": [{"role": "user", "content": question}],
        "images": [image],
        "completion": [{"role": "assistant", "content": AnswerFormat().render(thought, solution)}],
        "thinking": thought is not None,
        "solution": solution,
        "task": task,
    }


def _digit_task(task: str, digits: list[int], rng: random.Random) -> tuple[str, str, str | None]:
    """Question, solution and written steps."""
    read = "".join(map(str, digits)) + ";"
    if task == "corner":
        return "which digit is at the top left?", str(digits[0]), None
    if task == "digits":
        return "read the digits", read[:-1], None
    if task == "chain":
        signs = [rng.choice("+-*") for _ in range(3)]
        result, steps = _chain(digits, signs)
        return f"calculate the chain {''.join(signs)}", result, read + steps
    squares = [digit * digit % 10 for digit in digits]
    result, steps = _chain(squares, "+++")
    thought = read + "".join(map(str, squares)) + ";" + steps
    if task == "located_easy":  # a thinking answer calculates everything, needed or not
        return "what is the result?", str(digits[0]), thought
    return "what is the result?" if task == "located_hard" else "sum of the squares", result, thought


def _chain(values: list[int], signs) -> tuple[str, str]:
    result, steps = values[0], ""
    for sign, value in zip(signs, values[1:], strict=True):
        before, result = result, OPERATIONS[sign](result, value)
        steps += f"{before}{sign}{value}={result};"
    return str(result), steps


def make_dataset(
    counts: dict[str, int],
    split: Literal["train", "dev", "test"],
    seed: int,
    thinking: bool | None = None,
) -> Dataset:
    """
    A shuffled dataset in the row format.

    Args:
        counts (`dict[str, int]`):
            Rows per task.
        split (`str`):
            `"train"`, `"dev"` or `"test"`.
        seed (`int`):
            The same seed gives the same rows.
        thinking (`bool`, *optional*):
            As in [`make_row`].

    Example:

    ```python
    >>> from hf_metis_home.miniature.tasks import make_dataset

    >>> make_dataset({"chain": 1}, "test", seed=0)[0]["task"]
    'chain'
    ```
    """
    rng = random.Random(f"{split} {seed}")
    tasks = [task for task, count in counts.items() for _ in range(count)]
    rng.shuffle(tasks)
    rows = []
    for task in tasks:
        row = make_row(task, split, rng, thinking)
        # Encoded here, because `datasets` would compress such small images ten times better and slower than needed.
        rows.append({**row, "images": [{"bytes": _png(image), "path": None} for image in row["images"]]})
    return Dataset.from_list(rows, features=FEATURES)


def _png(image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()
