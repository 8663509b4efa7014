"""Rows and the text in them."""

from .completions import Completion, opening_text, opening_token_ids, parse_completion, render_completion


__all__ = ["Completion", "opening_text", "opening_token_ids", "parse_completion", "render_completion"]
