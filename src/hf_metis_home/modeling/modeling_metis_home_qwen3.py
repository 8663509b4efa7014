"""The hybrid on Qwen3, a language model. Ships to the Hub with the weights."""

from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3Model

from .configuration_metis_home import MetisHomeConfigMixin
from .mixins_metis_home import MetisHomeHeadMixin, MetisHomeModelMixin


class MetisHomeQwen3Config(MetisHomeConfigMixin, Qwen3Config):
    """Qwen3's fields and those of [`MetisHomeConfigMixin`]."""

    model_type = "metis_home_qwen3"


class MetisHomeQwen3Model(MetisHomeModelMixin, Qwen3Model):
    """What `AutoModel` gives."""

    config: MetisHomeQwen3Config


class MetisHomeQwen3ForCausalLM(MetisHomeHeadMixin, Qwen3ForCausalLM):
    """What `AutoModelForCausalLM` gives."""

    config: MetisHomeQwen3Config
    base_class = MetisHomeQwen3Model


MetisHomeQwen3Config.register_for_auto_class()
MetisHomeQwen3Model.register_for_auto_class("AutoModel")
MetisHomeQwen3ForCausalLM.register_for_auto_class("AutoModelForCausalLM")

__all__ = ["MetisHomeQwen3Config", "MetisHomeQwen3ForCausalLM", "MetisHomeQwen3Model"]
