"""Answers of a model to rows, and what they are worth."""

from .answering import AnswerRecord, answer_rows, exact_match, summarise


__all__ = ["AnswerRecord", "answer_rows", "exact_match", "summarise"]
