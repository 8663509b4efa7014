"""The text of an answer: its format, whether it is the gold answer, and whether it is right."""

from .format import AnswerFormat, Completion
from .judging import Verdict, judge
from .openings import closing_token_ids, opening_text, opening_token_ids


__all__ = [
    "AnswerFormat",
    "Completion",
    "Verdict",
    "closing_token_ids",
    "judge",
    "opening_text",
    "opening_token_ids",
]
