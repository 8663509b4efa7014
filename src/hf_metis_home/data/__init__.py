"""Rows: their schema, where they come from, and what a model takes of them."""

from .prompts import prompt_inputs
from .rows import TRAINING_COLUMNS, check_columns, check_row


__all__ = ["TRAINING_COLUMNS", "check_columns", "check_row", "prompt_inputs"]
