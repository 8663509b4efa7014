"""
Questions that the router sent to the wrong branch, so that readers can judge for themselves: image, question, answers.

Bounded, so that a report stays small however many questions there are.
"""

import io
from pathlib import Path

from ..modeling.configuration_metis_home import BRANCHES
from ..modeling.router_metis_home import is_thinking
from .page import data_uri


SAMPLES = 12  # of each kind
LONGEST_TEXT = 3000  # characters of a question or an answer
IMAGE_SIDE = 256  # pixels
PLAIN_IMAGE = 30_000  # characters; a longer PNG becomes a JPEG
SMALL_IMAGE = 112  # pixels; smaller images are enlarged so that their pixels can be seen


def wrong_routes(table, threshold: float, questions: str | Path | None = None) -> dict[str, dict]:
    """
    Samples of the router's mistakes.

    Args:
        table (`pandas.DataFrame`):
            Outcomes.
        threshold (`float`):
            The router's threshold.
        questions (`str` or `Path`, *optional*):
            `questions.parquet` with `task`, `id`, `question`, `solution` and `image`.

    Returns:
        `dict`: `"missed"` (answered directly and wrong, where thinking is right) and `"needless"` (sent to thinking,
        where the direct answer is right), each with `total` and at most `SAMPLES` `rows`: from each task in turn the
        ones where the router was most certain, wrong answers first. A row has the columns of the outcomes, `thinking`,
        and `question`, `solution` and `image` (`source`, a data URI, and whether it is `small`), None if unknown.
    """
    answered = table.dropna(subset=["thinking_probability", "correct_thinking", "correct_non_thinking"])
    thinking = is_thinking(answered["thinking_probability"].to_numpy(), threshold)
    thinking_right, direct_right = (answered[f"correct_{branch}"].astype(bool) for branch in BRANCHES)
    found = {}
    for kind, rows in (
        ("missed", answered[~thinking & thinking_right & ~direct_right]),
        ("needless", answered[thinking & direct_right]),
    ):
        worst = _worst(rows, threshold)
        known = _read_questions(questions, worst)
        for row in worst:
            question = known.get((row["task"], row["id"]), dict.fromkeys(("question", "solution", "image")))
            row |= {**question, "image": _image(question["image"]), "thinking": kind == "needless"}
        found[kind] = {"total": len(rows), "rows": worst}
    return found


def _worst(rows, threshold: float) -> list[dict]:
    """Wrong answers first, then the farthest from the threshold; the first of every task before the second of any."""
    right = rows["correct_thinking"].astype(bool) & rows["correct_non_thinking"].astype(bool)
    distance = -(rows["thinking_probability"] - threshold).abs()
    ordered = rows.assign(right=right, distance=distance).sort_values(["right", "distance"], kind="stable")
    turn = ordered.groupby("task").cumcount()
    return ordered.assign(turn=turn).sort_values("turn", kind="stable").head(SAMPLES).to_dict("records")


def _read_questions(path: str | Path | None, rows: list[dict]) -> dict[tuple[str, str], dict]:
    """Questions of some rows by task and id. The images of all others are not read."""
    if path is None or not rows:
        return {}
    from pyarrow import dataset

    source = dataset.dataset(path)
    columns = ["task", "id", "question", "solution", "image"]
    if missing := [name for name in columns if name not in source.schema.names]:
        raise ValueError(
            f"{str(path)!r} has no column {', '.join(map(repr, missing))}; it has {source.schema.names}. Use the file "
            "that `metis-home eval` wrote, or delete it to get the report without questions."
        )
    chosen = dataset.field("id").isin([row["id"] for row in rows])
    table = source.to_table(columns=columns, filter=chosen)
    return {(row["task"], row["id"]): row for row in table.to_pylist()}


def _image(content: bytes | None) -> dict | None:
    """An image for the page, decoded and re-encoded so that nothing but an image gets in."""
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
