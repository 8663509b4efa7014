"""
Reading the finished model back as anyone would, and showing what it answers.

Imports nothing that registers our classes, so that the model is built from the Python files in its folder.
"""

from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from ..evaluation import answer_rows
from ..miniature.tasks import MAX_ANSWER_TOKENS


def answer_samples(folder: Path, rows) -> list[dict]:
    """
    Answers of the model in a Hub folder, loaded with `trust_remote_code=True`.

    Args:
        folder (`Path`):
            What `save_hub_folder` wrote.
        rows (`Sequence[dict]`):
            Rows of the row format.

    Returns:
        `list[dict]`: what [`~demo.report.write_report`] shows: `image`, `question`, `gold`, `task`,
        `thinking_probability`, `thinking`, `thought`, `answer`, `correct`.
    """
    torch.set_num_threads(1)
    model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)
    if not type(model).__module__.startswith("transformers_modules."):
        raise RuntimeError(f"The model was built by {type(model).__module__}, not by the code in {folder}.")
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    records = answer_rows(model.eval(), processor, rows, max_new_tokens=MAX_ANSWER_TOKENS)
    return [
        {
            "image": row["images"][0] if row["images"] else None,
            "question": record.question,
            "gold": record.solution,
            "task": record.task,
            "thinking_probability": record.thinking_probability,
            "thinking": record.thinking,
            "thought": record.thought,
            "answer": record.answer,
            "correct": record.correct,
        }
        for row, record in zip(rows, records, strict=True)
    ]
