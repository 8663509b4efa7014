"""
Questions that the router sent to the wrong branch, as a reader can judge them: image, question, both texts.

Bounded, so that a report stays small however many questions there are.
"""

import io
from pathlib import Path

from ..modeling.router_metis_home import is_thinking
from .page import data_uri


SAMPLES = 12  # of each kind
LONGEST_TEXT = 3000  # characters of a question or an answer
IMAGE_SIDE = 256  # pixels
PLAIN_IMAGE = 30_000  # characters up to which an image stays as exact as it is
SMALL_IMAGE = 112  # pixels, below which it is shown enlarged, with its pixels to be seen


def wrong_routes(table, threshold: float, questions: Path | None = None) -> dict[str, dict]:
    """
    Samples of what the router got wrong.

    Args:
        table (`pandas.DataFrame`):
            Outcomes.
        threshold (`float`):
            The router's.
        questions (`Path`, *optional*):
            `questions.parquet` with `task`, `id`, `question`, `solution` and `image`.

    Returns:
        `dict`: `"missed"` (answered directly and wrong, where thinking is right) and `"needless"` (thought over, where
        the direct answer is right) to `in_all`, how many there are, and `rows`, at most `SAMPLES` of them: of every
        task in turn those that the router was surest of, wrong answers first. A row has `task`, `id`, `subject`,
        `thinking_probability`, `thinking`, both branches' `correct_*`, `tokens_*` and `text_*` (shortened), and
        `question`, `solution` and `image` (`source`, a data URI, and whether it is `small`), None where unknown.
    """
    answered = table[
        table["thinking_probability"].notna()
        & table["correct_thinking"].notna()
        & table["correct_non_thinking"].notna()
    ]
    thinking = is_thinking(answered["thinking_probability"].to_numpy(), threshold)
    right = {mode: answered[f"correct_{mode}"].astype(bool) for mode in ("thinking", "non_thinking")}
    kinds = {
        "missed": answered[~thinking & right["thinking"] & ~right["non_thinking"]],
        "needless": answered[thinking & right["non_thinking"]],
    }
    picked = {kind: _worst(rows, threshold) for kind, rows in kinds.items()}
    known = _read_questions(questions, [row for rows in picked.values() for row in rows])
    return {
        kind: {
            "in_all": len(kinds[kind]),
            "rows": [_sample(row, kind == "needless", known.get((row["task"], row["id"]), {})) for row in rows],
        }
        for kind, rows in picked.items()
    }


def _worst(rows, threshold: float) -> list[dict]:
    """Wrong answers first, then the farthest from the threshold; the first of every task before the second of any."""
    right = rows["correct_thinking"].astype(bool) & rows["correct_non_thinking"].astype(bool)
    distance = (rows["thinking_probability"] - threshold).abs()
    ordered = rows.assign(right=right, distance=distance).sort_values(
        ["right", "distance"], ascending=[True, False], kind="stable"
    )
    turn = ordered.groupby("task").cumcount()
    return ordered.assign(turn=turn).sort_values("turn", kind="stable").head(SAMPLES).to_dict("records")


def _sample(row: dict, thinking: bool, question: dict) -> dict:
    subject = row["subject"] if isinstance(row["subject"], str) else None  # pandas' empty cell is a number
    sample = {"thinking": thinking, "subject": subject, "thinking_probability": row["thinking_probability"]}
    for mode in ("thinking", "non_thinking"):
        sample[f"correct_{mode}"] = bool(row[f"correct_{mode}"])
        sample[f"tokens_{mode}"] = int(row[f"tokens_{mode}"])
        sample[f"text_{mode}"] = shorten(row[f"text_{mode}"])
    return {
        **sample,
        "task": row["task"],
        "id": row["id"],
        "question": shorten(question.get("question")),
        "solution": shorten(question.get("solution")),
        "image": _image(question.get("image")),
    }


def shorten(text: str | None, longest: int = LONGEST_TEXT) -> str | None:
    """Beginning and end of a long text, and how much is left out between them."""
    if text is None or len(text) <= longest:
        return text
    head, tail = longest * 2 // 3, longest // 3
    return f"{text[:head]} […{len(text) - head - tail:,} characters left out…] {text[-tail:]}"


def _read_questions(path: Path | None, rows: list[dict]) -> dict[tuple[str, str], dict]:
    """Questions of some rows by task and id, without reading the images of the others at once."""
    if path is None or not rows:
        return {}
    from pyarrow import dataset

    source = dataset.dataset(path)
    columns = ["task", "id", "question", "solution", "image"]
    if missing := [name for name in columns if name not in source.schema.names]:
        raise ValueError(
            f"{str(path)!r} has no column {', '.join(map(repr, missing))}; it has {source.schema.names}. Give the "
            "folder that `metis-home eval` wrote, or take the file away to have the report without questions."
        )
    wanted = {(row["task"], row["id"]) for row in rows}
    found = source.to_table(columns=columns, filter=dataset.field("id").isin(sorted({key[1] for key in wanted})))
    return {(row["task"], row["id"]): row for row in found.to_pylist() if (row["task"], row["id"]) in wanted}


def _image(content: bytes | None) -> dict | None:
    """An image to show, decoded and written again: nothing but an image gets into the page."""
    from PIL import Image

    if content is None:
        return None
    try:
        image = Image.open(io.BytesIO(content)).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    image.thumbnail((IMAGE_SIDE, IMAGE_SIDE))
    source = data_uri(image)
    if len(source) > PLAIN_IMAGE:
        source = data_uri(image, "JPEG", quality=80)
    return {"source": source, "small": image.width < SMALL_IMAGE}
