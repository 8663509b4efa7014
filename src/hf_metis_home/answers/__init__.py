"""The text of an answer: its format, whether it is the gold answer, and whether it is right."""

from .format import Completion, parse_completion, shown_parts
from .openings import closing_token_ids, opening_text, opening_token_ids, render_completion


__all__ = [
    "Completion",
    "closing_token_ids",
    "opening_text",
    "opening_token_ids",
    "parse_completion",
    "render_completion",
    "shown_parts",
]
