"""The hybrid on Qwen3-VL. Ships to the Hub with the weights."""

from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLModel

from .configuration_metis_home import MetisHomeConfigMixin
from .mixins_metis_home import MetisHomeHeadMixin, MetisHomeModelMixin


class MetisHomeQwen3VLConfig(MetisHomeConfigMixin, Qwen3VLConfig):
    """Qwen3-VL's fields and those of [`MetisHomeConfigMixin`]."""

    model_type = "metis_home_qwen3_vl"


class MetisHomeQwen3VLModel(MetisHomeModelMixin, Qwen3VLModel):
    """What `AutoModel` gives."""

    config: MetisHomeQwen3VLConfig


class MetisHomeQwen3VLForConditionalGeneration(MetisHomeHeadMixin, Qwen3VLForConditionalGeneration):
    """What `AutoModelForImageTextToText` gives."""

    config: MetisHomeQwen3VLConfig
    base_class = MetisHomeQwen3VLModel


MetisHomeQwen3VLConfig.register_for_auto_class()
MetisHomeQwen3VLModel.register_for_auto_class("AutoModel")
MetisHomeQwen3VLForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")

__all__ = ["MetisHomeQwen3VLConfig", "MetisHomeQwen3VLForConditionalGeneration", "MetisHomeQwen3VLModel"]
