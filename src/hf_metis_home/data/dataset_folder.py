"""A folder that `datasets.load_dataset` reads: Parquet files and a card with what is known about the rows."""

from pathlib import Path

from ..hub_templates.card_merge import new_card
from ..hub_templates.cards import PLACEHOLDER, hub_id, plain_text
from .rows import check_row


ROWS_PER_FILE = 2000
DATASET_TAGS = ["metis-home", "hybrid-thinking"]
COLUMNS = {
    "prompts": "prompts",
    "always": "always right",
    "sometimes": "sometimes",
    "never": "never",
    "mean_pass_rate": "mean pass rate",
    "own_traces": "own traces",
    "expert_traces": "expert's",
    "no_trace": "right, no trace",
    "no_expert": "no expert",
    "wrong_expert": "expert wrong",
}


def write_dataset_folder(folder: Path, rows: list[dict], report: dict, facts: dict, command: str | None) -> None:
    """
    Write rows as `data/train-*.parquet` and `README.md`.

    Args:
        folder (`Path`):
            Exists and is empty.
        rows (`list[dict]`):
            Rows of the row format, images as dicts with `bytes`; all are checked.
        report (`dict`):
            What [`~data.build.build_data`] returns.
        facts (`dict`):
            Settings for the card.
        command (`str`, *optional*):
            For the card.
    """
    from datasets import Dataset

    for index, row in enumerate(rows):
        check_row(row, index)
    as_parts = any(isinstance(message["content"], list) for row in rows for message in row["prompt"])
    if as_parts:
        rows = [{**row, "prompt": _in_parts(row)} for row in rows]
    features = _features(as_parts)
    (folder / "data").mkdir()
    count = -(-len(rows) // ROWS_PER_FILE)
    for number in range(count):
        part = rows[number * ROWS_PER_FILE : (number + 1) * ROWS_PER_FILE]
        path = folder / "data" / f"train-{number:05d}-of-{count:05d}.parquet"
        Dataset.from_list(part, features=features).to_parquet(path)
    (folder / "README.md").write_text(_card(rows, report, facts, command), encoding="utf-8")


def _in_parts(row: dict) -> list[dict]:
    """A prompt with parts for content in every message, since a column has one type."""
    images, messages = len(row["images"]), []
    for message in row["prompt"]:
        content = message["content"]
        if isinstance(content, str):
            places = images if message["role"] == "user" else 0
            content = [{"type": "image"}] * places + [{"type": "text", "text": content}]
        if message["role"] == "user":
            images = 0
        messages.append({"role": message["role"], "content": content})
    return messages


def _features(as_parts: bool):
    from datasets import Features, Image, List, Value

    text = Value("string")
    content = List({"type": text, "text": text}) if as_parts else text
    return Features(
        {
            "prompt": List({"role": text, "content": content}),
            "images": List(Image()),
            "completion": List({"role": text, "content": text}),
            "thinking": Value("bool"),
            "solution": text,
            "task": text,
        }
    )


def _card(rows: list[dict], report: dict, facts: dict, command: str | None) -> str:
    facts = {name: value for name, value in facts.items() if value is not None and name != "endpoint"}
    for name in ("model", "expert"):
        if name in facts:
            facts[name] = hub_id(facts[name]) or "a local one"
    by_task: dict[str, list[bool]] = {}
    for row in rows:
        by_task.setdefault(row["task"], []).append(row["thinking"])
    lines = [
        "# Rows for Stage-SFT",
        "",
        f"{report['rows']} rows, {report['thinking']} thinking and {report['non_thinking']} non-thinking, in the row "
        "format of hf_metis_home: `prompt`, `images`, `completion`, `thinking`, `solution`, `task`. Made with "
        "`metis-home build-data` by pass rate (arXiv 2510.20519).",
        "",
        "| task | rows | thinking share | " + " | ".join(COLUMNS.values()) + " |",
        "|---|" + "---:|" * (2 + len(COLUMNS)),
    ]
    for task, counts in report["tasks"].items():
        modes = by_task.get(task, [])
        share = f"{sum(modes) / len(modes):.2f}" if modes else ""
        cells = [_cell((counts or {}).get(name)) for name in COLUMNS]
        lines.append(f"| {plain_text(task)} | {len(modes)} | {share} | " + " | ".join(cells) + " |")
    made = ["## How they were made", "", "| setting | value |", "|---|---|"]
    made += [f"| `{name}` | {plain_text(value)} |" for name, value in facts.items()]
    if command is not None:
        made += ["", "```bash", command, "```"]
    metadata = {
        "tags": DATASET_TAGS,
        "task_categories": ["image-text-to-text"],
        "size_categories": [size_category(len(rows))],
    }
    return new_card(metadata, {"about": "\n".join(lines), "use": use_section(None), "made": "\n".join(made)})


def use_section(repo: str | None) -> str:
    """How rows are loaded from a repository of the Hub, whose id may not be known."""
    return f"""## Use

```python
from datasets import load_dataset

repo = "{repo or PLACEHOLDER}"
rows = load_dataset(repo, split="train")
print(rows[0]["thinking"], rows[0]["completion"])
```"""


def size_category(count: int) -> str:
    """The Hub's name for a number of rows."""
    limits = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
    return next((name for limit, name in limits if count < limit), "10M<n<100M")


def _cell(value: object) -> str:
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
