"""The hybrid on SmolVLM. Ships to the Hub with the weights."""

from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration, SmolVLMModel

from .configuration_metis_home import MetisHomeConfigMixin
from .mixins_metis_home import MetisHomeHeadMixin, MetisHomeModelMixin


class MetisHomeSmolVLMConfig(MetisHomeConfigMixin, SmolVLMConfig):
    """SmolVLM's fields and those of [`MetisHomeConfigMixin`]."""

    model_type = "metis_home_smolvlm"
    text_model = "model.text_model."


class MetisHomeSmolVLMModel(MetisHomeModelMixin, SmolVLMModel):
    """What `AutoModel` gives."""

    config: MetisHomeSmolVLMConfig


class MetisHomeSmolVLMForConditionalGeneration(MetisHomeHeadMixin, SmolVLMForConditionalGeneration):
    """What `AutoModelForImageTextToText` gives."""

    config: MetisHomeSmolVLMConfig
    base_class = MetisHomeSmolVLMModel


MetisHomeSmolVLMConfig.register_for_auto_class()
MetisHomeSmolVLMModel.register_for_auto_class("AutoModel")
MetisHomeSmolVLMForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")

__all__ = ["MetisHomeSmolVLMConfig", "MetisHomeSmolVLMForConditionalGeneration", "MetisHomeSmolVLMModel"]
