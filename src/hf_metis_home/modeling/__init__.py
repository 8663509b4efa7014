"""
The model: configuration and modelling files that also travel to the Hub with the weights.

Importing a name registers the classes with transformers' Auto classes, so that a saved model loads in this process
without `trust_remote_code`; importing only the package does not load torch.
"""

from .._lazy import lazy_exports


_load, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "configuration_metis_home": ["MetisHomeConfig", "MetisHomeTextConfig"],
        "modeling_metis_home": [
            "MetisHomeForConditionalGeneration", "MetisHomeModel", "MetisHomePreTrainedModel", "MetisHomeTextModel",
        ],
    },
)  # fmt: skip


def __getattr__(name: str):
    found = _load(name)
    _register()
    return found


def _register():
    from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText

    from .configuration_metis_home import MetisHomeConfig
    from .modeling_metis_home import MetisHomeForConditionalGeneration, MetisHomeModel

    AutoConfig.register(MetisHomeConfig.model_type, MetisHomeConfig, exist_ok=True)
    AutoModel.register(MetisHomeConfig, MetisHomeModel, exist_ok=True)
    AutoModelForImageTextToText.register(MetisHomeConfig, MetisHomeForConditionalGeneration, exist_ok=True)
