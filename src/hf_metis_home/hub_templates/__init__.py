"""Texts of what goes to the Hub: cards of models, exports and datasets, and how they are kept up to date."""

from .cards import model_card_parts, render_export_card, render_model_card
from .marked import merge_card, write_card
from .provenance import history_of


__all__ = ["history_of", "merge_card", "model_card_parts", "render_export_card", "render_model_card", "write_card"]
