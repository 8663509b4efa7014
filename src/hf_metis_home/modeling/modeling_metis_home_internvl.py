"""The hybrid on InternVL. Ships to the Hub with the weights."""

from transformers import InternVLConfig, InternVLForConditionalGeneration, InternVLModel

from .configuration_metis_home import MetisHomeConfigMixin
from .mixins_metis_home import MetisHomeHeadMixin, MetisHomeModelMixin


class MetisHomeInternVLConfig(MetisHomeConfigMixin, InternVLConfig):
    """InternVL's fields and those of [`MetisHomeConfigMixin`]."""

    model_type = "metis_home_internvl"


class MetisHomeInternVLModel(MetisHomeModelMixin, InternVLModel):
    """What `AutoModel` gives."""

    config: MetisHomeInternVLConfig


class MetisHomeInternVLForConditionalGeneration(MetisHomeHeadMixin, InternVLForConditionalGeneration):
    """What `AutoModelForImageTextToText` gives."""

    config: MetisHomeInternVLConfig
    base_class = MetisHomeInternVLModel


MetisHomeInternVLConfig.register_for_auto_class()
MetisHomeInternVLModel.register_for_auto_class("AutoModel")
MetisHomeInternVLForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")

__all__ = ["MetisHomeInternVLConfig", "MetisHomeInternVLForConditionalGeneration", "MetisHomeInternVLModel"]
