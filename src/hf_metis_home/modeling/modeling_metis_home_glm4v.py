"""The hybrid on GLM-4.1V. Ships to the Hub with the weights."""

from transformers import Glm4vConfig, Glm4vForConditionalGeneration, Glm4vModel

from .configuration_metis_home import MetisHomeConfigMixin
from .mixins_metis_home import MetisHomeHeadMixin, MetisHomeModelMixin


class MetisHomeGlm4vConfig(MetisHomeConfigMixin, Glm4vConfig):
    """GLM-4.1V's fields and those of [`MetisHomeConfigMixin`]."""

    model_type = "metis_home_glm4v"


class MetisHomeGlm4vModel(MetisHomeModelMixin, Glm4vModel):
    """What `AutoModel` gives."""

    config: MetisHomeGlm4vConfig


class MetisHomeGlm4vForConditionalGeneration(MetisHomeHeadMixin, Glm4vForConditionalGeneration):
    """What `AutoModelForImageTextToText` gives."""

    config: MetisHomeGlm4vConfig
    base_class = MetisHomeGlm4vModel


MetisHomeGlm4vConfig.register_for_auto_class()
MetisHomeGlm4vModel.register_for_auto_class("AutoModel")
MetisHomeGlm4vForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")

__all__ = ["MetisHomeGlm4vConfig", "MetisHomeGlm4vForConditionalGeneration", "MetisHomeGlm4vModel"]
