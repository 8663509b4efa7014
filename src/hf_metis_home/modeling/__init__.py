"""
The model: configuration and modelling files that also travel to the Hub beside the weights.

Importing a name registers its backbone's classes with transformers' Auto classes, so that a saved model loads in this
process without `trust_remote_code`; importing the package alone does not load torch.
"""

from typing import Any


# By the dense model's `model_type`: the name of the hybrid's classes, and what they are with a head.
BACKBONES = {
    "qwen2_5_vl": ("", "ForConditionalGeneration"),
    "qwen3_vl": ("Qwen3VL", "ForConditionalGeneration"),
    "qwen3_5": ("Qwen3_5", "ForConditionalGeneration"),
    "gemma3": ("Gemma3", "ForConditionalGeneration"),
    "gemma4": ("Gemma4", "ForConditionalGeneration"),
    "mistral3": ("Mistral3", "ForConditionalGeneration"),
    "glm4v": ("Glm4v", "ForConditionalGeneration"),
    "internvl": ("InternVL", "ForConditionalGeneration"),
    "smolvlm": ("SmolVLM", "ForConditionalGeneration"),
    "lfm2_vl": ("Lfm2Vl", "ForConditionalGeneration"),
    "qwen3": ("Qwen3", "ForCausalLM"),
    "llama": ("Llama", "ForCausalLM"),
}
_EXPORTS = {
    f"MetisHome{name}{part}": backbone
    for backbone, (name, head) in BACKBONES.items()
    for part in ("Config", "Model", head)
}
_MIXINS = {
    "MetisHomeConfigMixin": "configuration_metis_home",
    "MetisHomeHeadMixin": "mixins_metis_home",
    "MetisHomeModelMixin": "mixins_metis_home",
}
__all__ = [*_EXPORTS, *_MIXINS]


def __getattr__(name: str):
    import importlib

    if name in _MIXINS:
        return getattr(importlib.import_module(f".{_MIXINS[name]}", __name__), name)
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return next(cls for cls in hybrid_classes(_EXPORTS[name]) if cls.__name__ == name)


def __dir__():
    return __all__


def hybrid_classes(backbone: str) -> tuple[Any, Any, Any]:
    """
    A backbone's hybrid, by the dense model's `model_type`: configuration, model, and model with a head.

    Example:

    ```python
    >>> from hf_metis_home.modeling import hybrid_classes

    >>> [cls.__name__ for cls in hybrid_classes("qwen3")]
    ['MetisHomeQwen3Config', 'MetisHomeQwen3Model', 'MetisHomeQwen3ForCausalLM']
    ```
    """
    import importlib

    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText

    if backbone not in BACKBONES:
        raise ValueError(f"{backbone!r} is not a model type that can become a hybrid. Those are {list(BACKBONES)}.")
    (name, head), first = BACKBONES[backbone], backbone == "qwen2_5_vl"
    file = importlib.import_module(".modeling_metis_home" + ("" if first else f"_{backbone}"), __name__)
    config, model, model_with_head = (getattr(file, f"MetisHome{name}{part}") for part in ("Config", "Model", head))
    AutoConfig.register(config.model_type, config, exist_ok=True)
    AutoModel.register(config, model, exist_ok=True)
    auto = AutoModelForCausalLM if head == "ForCausalLM" else AutoModelForImageTextToText
    auto.register(config, model_with_head, exist_ok=True)
    return config, model, model_with_head
