"""What goes to the Hub beside a model: cards of models, exports and datasets, kept up to date, and a Space."""

from .cards import model_card_parts, render_export_card, render_model_card
from .marked_sections import merge_card, write_card
from .provenance import history_of
from .spaces import write_space


__all__ = [
    "history_of",
    "merge_card",
    "model_card_parts",
    "render_export_card",
    "render_model_card",
    "write_card",
    "write_space",
]
