"""What goes to the Hub beside a model: cards, and a Space."""

from .cards import render_export_card, render_model_card
from .spaces import write_space


__all__ = ["render_export_card", "render_model_card", "write_space"]
