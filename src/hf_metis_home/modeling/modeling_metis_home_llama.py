"""The hybrid on Llama, a language model. Ships to the Hub with the weights."""

from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel

from .configuration_metis_home import MetisHomeConfigMixin
from .mixins_metis_home import MetisHomeHeadMixin, MetisHomeModelMixin


class MetisHomeLlamaConfig(MetisHomeConfigMixin, LlamaConfig):
    """Llama's fields and those of [`MetisHomeConfigMixin`]."""

    model_type = "metis_home_llama"


class MetisHomeLlamaModel(MetisHomeModelMixin, LlamaModel):
    """What `AutoModel` gives."""

    config: MetisHomeLlamaConfig


class MetisHomeLlamaForCausalLM(MetisHomeHeadMixin, LlamaForCausalLM):
    """What `AutoModelForCausalLM` gives."""

    config: MetisHomeLlamaConfig
    base_class = MetisHomeLlamaModel


MetisHomeLlamaConfig.register_for_auto_class()
MetisHomeLlamaModel.register_for_auto_class("AutoModel")
MetisHomeLlamaForCausalLM.register_for_auto_class("AutoModelForCausalLM")

__all__ = ["MetisHomeLlamaConfig", "MetisHomeLlamaForCausalLM", "MetisHomeLlamaModel"]
