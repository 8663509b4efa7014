"""The hybrid on Gemma 4. Ships to the Hub with the weights."""

from transformers import Gemma4Config, Gemma4ForConditionalGeneration, Gemma4Model

from .configuration_metis_home import MetisHomeConfigMixin
from .mixins_metis_home import MetisHomeHeadMixin, MetisHomeModelMixin


class MetisHomeGemma4Config(MetisHomeConfigMixin, Gemma4Config):
    """Gemma 4's fields and those of [`MetisHomeConfigMixin`]."""

    model_type = "metis_home_gemma4"


class MetisHomeGemma4Model(MetisHomeModelMixin, Gemma4Model):
    """What `AutoModel` gives."""

    config: MetisHomeGemma4Config


class MetisHomeGemma4ForConditionalGeneration(MetisHomeHeadMixin, Gemma4ForConditionalGeneration):
    """What `AutoModelForImageTextToText` gives."""

    config: MetisHomeGemma4Config
    base_class = MetisHomeGemma4Model


MetisHomeGemma4Config.register_for_auto_class()
MetisHomeGemma4Model.register_for_auto_class("AutoModel")
MetisHomeGemma4ForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")

__all__ = ["MetisHomeGemma4Config", "MetisHomeGemma4ForConditionalGeneration", "MetisHomeGemma4Model"]
