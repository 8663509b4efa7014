"""Model cards from the records of what was done, and checked, complete uploads to the Hub."""

from .._lazy import lazy_exports


__getattr__, __dir__, __all__ = lazy_exports(
    __name__, {"push": ["plan_push", "push_model"], "card_update": ["update_card"]}
)
