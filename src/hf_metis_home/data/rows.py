"""
The one dataset format.

| column | type | meaning |
|---|---|---|
| `prompt` | list of messages | the conversation up to the query, ending with a user turn |
| `images` | list of images | in the order of their placeholders; empty for text |
| `completion` | list with one assistant message | text in the model's answer format |
| `thinking` | bool | the branch that answers, which is also the router's label |
| `solution` | str | gold answer, for rewards and evaluation; not needed for supervised training |
| `task` | str | name of the task; not needed for supervised training |
"""

from ..answers.format import FORMAT, AnswerFormat


TRAINING_COLUMNS = ("prompt", "images", "completion", "thinking")
PLACEHOLDERS = ("<|image_pad|>", "<|video_pad|>")


def check_columns(columns: list[str], where: str = "dataset") -> None:
    """Raise an error that names the columns that a dataset for supervised training lacks."""
    if missing := [name for name in TRAINING_COLUMNS if name not in columns]:
        raise ValueError(
            f"The {where} has no column {', '.join(map(repr, missing))}; it has {list(columns)}. Training rows need "
            f"{list(TRAINING_COLUMNS)}: see the row format in the documentation."
        )


def check_row(row: dict, index: int | str, where: str = "dataset", answer_format: AnswerFormat = FORMAT) -> None:
    """
    Check one row for supervised training.

    Args:
        row (`dict`):
            Columns of the row format. Images are counted, not decoded.
        index (`int` or `str`):
            What errors call the row.
        where (`str`, *optional*, defaults to `"dataset"`):
            What errors call the dataset.
        answer_format ([`~answers.AnswerFormat`], *optional*):
            The format that the completion must have.

    Raises:
        ValueError: an error that names the row, the column, the problem and the remedy.
    """

    def fail(column: str, problem: str):
        raise ValueError(f"Row {index} of the {where}, column {column!r}: {problem}")

    for column in TRAINING_COLUMNS:
        if column not in row:
            fail(column, f"missing. Training rows need {list(TRAINING_COLUMNS)}.")
    if not isinstance(row["thinking"], bool):
        fail("thinking", f"{row['thinking']!r} is not True or False. It names the branch that answers the row; set it.")
    if not is_conversation(row["prompt"]):
        fail("prompt", f"{row['prompt']!r} is not a list of chat messages, each with `role` and `content`.")
    if row["prompt"][-1]["role"] != "user":
        fail("prompt", f"ends with role {row['prompt'][-1]['role']!r}; the last message must be the user's query.")
    _check_images(row, fail)

    completion = row["completion"]
    if not is_conversation(completion) or len(completion) != 1 or completion[0]["role"] != "assistant":
        fail("completion", f"{completion!r} is not a list with one assistant message.")
    text = text_of(completion[0]["content"])
    if not text.strip():
        fail("completion", "empty, so there is nothing to train on. Drop the row or give it an answer.")
    parsed = answer_format.parse(text)
    if not parsed.well_formed:
        form = answer_format.render("…", "…")
        fail("completion", f"{text[:80]!r} is not of the form {form}. See `AnswerFormat.render`.")
    if bool(parsed.thought) != row["thinking"]:
        has = "a" if parsed.thought else "no"
        fail("completion", f"has {has} thought, but `thinking` is {row['thinking']}. Make the two agree.")


def _check_images(row: dict, fail) -> None:
    if not isinstance(row["images"], list):
        fail("images", f"a {type(row['images']).__name__}, but must be a list of images (empty for text).")
    contents = [message["content"] for message in row["prompt"]]
    for content in contents:
        if any(token in text_of(content) for token in PLACEHOLDERS):
            fail("prompt", f"spells out one of {PLACEHOLDERS}; images are placed by the template, so leave it out.")
    parts = [part for content in contents if isinstance(content, list) for part in content]
    placed = sum(part.get("type") == "image" for part in parts)
    # Content that is plain text has its images put in front of it, so there is nothing to count.
    if (placed or all(isinstance(content, list) for content in contents)) and placed != len(row["images"]):
        fail("images", f"{len(row['images'])} images for {placed} image places in `prompt`. Make the numbers agree.")


def is_conversation(value) -> bool:
    """Whether a value is a list of messages, each with a role, and content that is text or a list of parts."""
    return isinstance(value, list) and bool(value) and all(map(_is_message, value))


def _is_message(value) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("role"), str):
        return False
    content = value.get("content")
    return isinstance(content, str) or (isinstance(content, list) and all(isinstance(part, dict) for part in content))


def text_of(content: str | list[dict]) -> str:
    """The text of a message's content, which may be a list of parts."""
    return content if isinstance(content, str) else "".join(part.get("text") or "" for part in content)
