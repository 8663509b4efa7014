"""
What differs between the transformers versions that this model runs on. This file travels to the Hub beside the weights.

transformers 5.24 renamed `past_key_values` to `cache`: the argument of every forward, and the field of the outputs.
Gone when `pyproject.toml` asks for transformers 5.24.
"""

from transformers.modeling_outputs import BaseModelOutputWithPast


CACHE = "cache" if "cache" in BaseModelOutputWithPast.__dataclass_fields__ else "past_key_values"
