"""Rows and the text in them."""

from .completions import closing_token_ids, opening_text, opening_token_ids, render_completion
from .parsing import Completion, parse_completion, shown_parts
from .prompts import prompt_inputs
from .rows import TRAINING_COLUMNS, check_columns, check_row


__all__ = [
    "TRAINING_COLUMNS",
    "Completion",
    "check_columns",
    "check_row",
    "closing_token_ids",
    "opening_text",
    "opening_token_ids",
    "parse_completion",
    "prompt_inputs",
    "render_completion",
    "shown_parts",
]
