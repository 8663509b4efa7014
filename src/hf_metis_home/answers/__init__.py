"""Answers: their format, how they are compared with the gold answer, and the one judge of what is right."""

from .format import AnswerFormat, Completion
from .judging import Verdict, judge
from .openings import closing_token_ids, opening_text, opening_token_ids


__all__ = ["AnswerFormat", "Completion", "Verdict", "closing_token_ids", "judge", "opening_text", "opening_token_ids"]
