"""
The model: configuration and modelling files that also travel to the Hub beside the weights.

Importing a name registers the classes with transformers' Auto classes, so that a saved model loads in this process
without `trust_remote_code`; importing the package alone does not load torch.
"""

_EXPORTS = {
    "MetisHomeConfig": "configuration_metis_home",
    "MetisHomeConfigMixin": "configuration_metis_home",
    "MetisHomeForConditionalGeneration": "modeling_metis_home",
    "MetisHomeModel": "modeling_metis_home",
    "MetisHomeHeadMixin": "mixins_metis_home",
    "MetisHomeModelMixin": "mixins_metis_home",
}
__all__ = list(_EXPORTS)


def __getattr__(name: str):
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    _register()
    return getattr(importlib.import_module(f".{_EXPORTS[name]}", __name__), name)


def __dir__():
    return __all__


def _register():
    from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText

    from .configuration_metis_home import MetisHomeConfig
    from .modeling_metis_home import MetisHomeForConditionalGeneration, MetisHomeModel

    AutoConfig.register(MetisHomeConfig.model_type, MetisHomeConfig, exist_ok=True)
    AutoModel.register(MetisHomeConfig, MetisHomeModel, exist_ok=True)
    AutoModelForImageTextToText.register(MetisHomeConfig, MetisHomeForConditionalGeneration, exist_ok=True)
