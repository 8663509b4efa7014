"""Rows: their schema, how they are loaded and built, and the model inputs they give."""

from .prompts import prompt_inputs
from .rows import TRAINING_COLUMNS, check_columns, check_row


__all__ = ["TRAINING_COLUMNS", "check_columns", "check_row", "prompt_inputs"]
