"""Model cards from the records of what was done, and checked, complete uploads to the Hub."""

from importlib import import_module


_EXPORTS = {"plan_push": "push", "push_model": "push", "update_card": "card_update"}
__all__ = [*_EXPORTS]


def __getattr__(name: str):
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_EXPORTS[name]}", __name__), name)
