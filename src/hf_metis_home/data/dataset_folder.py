"""A folder that `datasets.load_dataset` reads: Parquet files and a dataset card."""

from pathlib import Path

from ..answers.format import FORMAT, AnswerFormat
from ..hub_templates.card_merge import new_card
from ..hub_templates.cards import PLACEHOLDER, hub_id, render_blocks
from .prompts import conversation_of
from .rows import check_row


ROWS_PER_FILE = 2000
DATASET_TAGS = ["metis-home", "hybrid-thinking"]


def write_dataset_folder(
    folder: Path, rows: list[dict], report: dict, facts: dict, command: str | None, answer_format: AnswerFormat = FORMAT
) -> None:
    """
    Write rows as `data/train-*.parquet` and `README.md`.

    Args:
        folder (`Path`):
            An empty folder.
        rows (`list[dict]`):
            Training rows, images as dicts with `bytes`. All of them are checked.
        report (`dict`):
            What [`~data.build.build_data`] returns.
        facts (`dict`):
            Settings to show on the card.
        command (`str`, *optional*):
            Command line to show on the card.
        answer_format ([`~answers.AnswerFormat`], *optional*):
            The format that completions must have.
    """
    from datasets import Dataset, Features, Image, List, Value

    for index, row in enumerate(rows):
        check_row(row, index, answer_format=answer_format)
    text = content = Value("string")
    if any(isinstance(message["content"], list) for row in rows for message in row["prompt"]):
        rows = [{**row, "prompt": _in_parts(row)} for row in rows]
        content = List({"type": text, "text": text})
    features = Features(
        prompt=List({"role": text, "content": content}),
        images=List(Image()),
        completion=List({"role": text, "content": text}),
        thinking=Value("bool"),
        solution=text,
        task=text,
    )
    (folder / "data").mkdir()
    count = -(-len(rows) // ROWS_PER_FILE)
    for number in range(count):
        part = rows[number * ROWS_PER_FILE : (number + 1) * ROWS_PER_FILE]
        path = folder / "data" / f"train-{number:05d}-of-{count:05d}.parquet"
        Dataset.from_list(part, features=features).to_parquet(path)
    (folder / "README.md").write_text(_card(rows, report, facts, command), encoding="utf-8")


def _in_parts(row: dict) -> list[dict]:
    """A prompt with a list of parts as the content of every message, because a column has one type."""
    keys = ("type", "text")
    return [
        {**message, "content": [{key: part[key] for key in keys if key in part} for part in message["content"]]}
        for message in conversation_of(row)
    ]


def _card(rows: list[dict], report: dict, facts: dict, command: str | None) -> str:
    facts = {name: value for name, value in facts.items() if value is not None and name != "endpoint"}
    facts |= {name: hub_id(facts[name]) or "a local one" for name in ("model", "expert") if name in facts}
    modes = {task: [row["thinking"] for row in rows if row["task"] == task] for task in report["tasks"]}
    metadata = {
        "tags": DATASET_TAGS,
        "task_categories": ["image-text-to-text"],
        "size_categories": [size_category(len(rows))],
    }
    values = {"report": report, "modes": modes, "facts": facts, "command": command, "use": use_section(None)}
    return new_card(metadata, render_blocks("dataset_card.md.jinja", **values))


def use_section(repo: str | None) -> str:
    """How to load the rows from the Hub; with a placeholder if the repository is not known."""
    return f"""## Use

```python
from datasets import load_dataset

repo = "{repo or PLACEHOLDER}"
rows = load_dataset(repo, split="train")
print(rows[0]["thinking"], rows[0]["completion"])
```"""


def size_category(count: int) -> str:
    """The Hub's size category for a number of rows."""
    limits = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
    return next((name for limit, name in limits if count < limit), "10M<n<100M")
