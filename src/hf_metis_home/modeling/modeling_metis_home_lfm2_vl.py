"""The hybrid on LFM2-VL. Ships to the Hub with the weights."""

from transformers import Lfm2VlConfig, Lfm2VlForConditionalGeneration, Lfm2VlModel

from .configuration_metis_home import MetisHomeConfigMixin
from .mixins_metis_home import MetisHomeHeadMixin, MetisHomeModelMixin


class MetisHomeLfm2VlConfig(MetisHomeConfigMixin, Lfm2VlConfig):
    """LFM2-VL's fields and those of [`MetisHomeConfigMixin`]."""

    model_type = "metis_home_lfm2_vl"


class MetisHomeLfm2VlModel(MetisHomeModelMixin, Lfm2VlModel):
    """What `AutoModel` gives."""

    config: MetisHomeLfm2VlConfig


class MetisHomeLfm2VlForConditionalGeneration(MetisHomeHeadMixin, Lfm2VlForConditionalGeneration):
    """What `AutoModelForImageTextToText` gives."""

    config: MetisHomeLfm2VlConfig
    base_class = MetisHomeLfm2VlModel


MetisHomeLfm2VlConfig.register_for_auto_class()
MetisHomeLfm2VlModel.register_for_auto_class("AutoModel")
MetisHomeLfm2VlForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")

__all__ = ["MetisHomeLfm2VlConfig", "MetisHomeLfm2VlForConditionalGeneration", "MetisHomeLfm2VlModel"]
