"""What accompanies a model on the Hub: cards for models, exports and datasets, and a Space."""

from .card_merge import merge_card, write_card
from .cards import export_card_parts, model_card_parts, render_model_card
from .space_folder import write_space
from .training_history import history_of


__all__ = [
    "export_card_parts", "history_of", "merge_card", "model_card_parts", "render_model_card", "write_card",
    "write_space",
]  # fmt: skip
