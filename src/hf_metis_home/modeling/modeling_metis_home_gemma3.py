"""The hybrid on Gemma 3. Ships to the Hub with the weights."""

from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3Model

from .configuration_metis_home import MetisHomeConfigMixin
from .mixins_metis_home import MetisHomeHeadMixin, MetisHomeModelMixin


class MetisHomeGemma3Config(MetisHomeConfigMixin, Gemma3Config):
    """Gemma 3's fields and those of [`MetisHomeConfigMixin`]."""

    model_type = "metis_home_gemma3"


class MetisHomeGemma3Model(MetisHomeModelMixin, Gemma3Model):
    """What `AutoModel` gives."""

    config: MetisHomeGemma3Config


class MetisHomeGemma3ForConditionalGeneration(MetisHomeHeadMixin, Gemma3ForConditionalGeneration):
    """What `AutoModelForImageTextToText` gives."""

    config: MetisHomeGemma3Config
    base_class = MetisHomeGemma3Model


MetisHomeGemma3Config.register_for_auto_class()
MetisHomeGemma3Model.register_for_auto_class("AutoModel")
MetisHomeGemma3ForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")

__all__ = ["MetisHomeGemma3Config", "MetisHomeGemma3ForConditionalGeneration", "MetisHomeGemma3Model"]
