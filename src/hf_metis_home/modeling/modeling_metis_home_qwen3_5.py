"""The hybrid on Qwen3.5. Ships to the Hub with the weights."""

from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration, Qwen3_5Model

from .configuration_metis_home import MetisHomeConfigMixin
from .mixins_metis_home import MetisHomeHeadMixin, MetisHomeModelMixin


class MetisHomeQwen3_5Config(MetisHomeConfigMixin, Qwen3_5Config):
    """Qwen3.5's fields and those of [`MetisHomeConfigMixin`]."""

    model_type = "metis_home_qwen3_5"


class MetisHomeQwen3_5Model(MetisHomeModelMixin, Qwen3_5Model):
    """What `AutoModel` gives."""

    config: MetisHomeQwen3_5Config


class MetisHomeQwen3_5ForConditionalGeneration(MetisHomeHeadMixin, Qwen3_5ForConditionalGeneration):
    """What `AutoModelForImageTextToText` gives."""

    config: MetisHomeQwen3_5Config
    base_class = MetisHomeQwen3_5Model


MetisHomeQwen3_5Config.register_for_auto_class()
MetisHomeQwen3_5Model.register_for_auto_class("AutoModel")
MetisHomeQwen3_5ForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")

__all__ = ["MetisHomeQwen3_5Config", "MetisHomeQwen3_5ForConditionalGeneration", "MetisHomeQwen3_5Model"]
