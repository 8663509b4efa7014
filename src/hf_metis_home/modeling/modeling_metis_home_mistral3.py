"""The hybrid on Mistral 3. Ships to the Hub with the weights."""

from transformers import Mistral3Config, Mistral3ForConditionalGeneration, Mistral3Model

from .configuration_metis_home import MetisHomeConfigMixin
from .mixins_metis_home import MetisHomeHeadMixin, MetisHomeModelMixin


class MetisHomeMistral3Config(MetisHomeConfigMixin, Mistral3Config):
    """Mistral 3's fields and those of [`MetisHomeConfigMixin`]."""

    model_type = "metis_home_mistral3"


class MetisHomeMistral3Model(MetisHomeModelMixin, Mistral3Model):
    """What `AutoModel` gives."""

    config: MetisHomeMistral3Config


class MetisHomeMistral3ForConditionalGeneration(MetisHomeHeadMixin, Mistral3ForConditionalGeneration):
    """What `AutoModelForImageTextToText` gives."""

    config: MetisHomeMistral3Config
    base_class = MetisHomeMistral3Model


MetisHomeMistral3Config.register_for_auto_class()
MetisHomeMistral3Model.register_for_auto_class("AutoModel")
MetisHomeMistral3ForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")

__all__ = ["MetisHomeMistral3Config", "MetisHomeMistral3ForConditionalGeneration", "MetisHomeMistral3Model"]
