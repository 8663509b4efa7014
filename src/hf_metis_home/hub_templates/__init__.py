"""Texts of what goes to the Hub: model cards."""

from .cards import render_export_card, render_model_card


__all__ = ["render_export_card", "render_model_card"]
