"""
The model: configuration and modelling files that also travel to the Hub with the weights.

Importing a name registers its backbone's classes with transformers' Auto classes, so that a saved model loads in this
process without `trust_remote_code`; importing the package alone does not load torch.
"""

from typing import Any

from .._lazy import lazy_exports


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


def _file(backbone: str) -> str:
    return "modeling_metis_home" + ("" if backbone == "qwen2_5_vl" else f"_{backbone}")


def _names(backbone: str) -> list[str]:
    name, head = BACKBONES[backbone]
    return [f"MetisHome{name}{part}" for part in ("Config", "Model", head)]


_load, __dir__, __all__ = lazy_exports(
    __name__,
    {
        **{_file(backbone): _names(backbone) for backbone in BACKBONES},
        "configuration_metis_home": ["MetisHomeConfigMixin"],
        "mixins_metis_home": ["MetisHomeHeadMixin", "MetisHomeModelMixin"],
    },
)


def __getattr__(name: str):
    found = _load(name)
    for backbone in BACKBONES:
        if name in _names(backbone):
            hybrid_classes(backbone)
    return found


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
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText

    if backbone not in BACKBONES:
        raise ValueError(f"{backbone!r} is not a model type that can become a hybrid. Those are {list(BACKBONES)}.")
    config, model, model_with_head = map(_load, _names(backbone))
    AutoConfig.register(config.model_type, config, exist_ok=True)
    AutoModel.register(config, model, exist_ok=True)
    text_only = BACKBONES[backbone][1] == "ForCausalLM"
    auto = AutoModelForCausalLM if text_only else AutoModelForImageTextToText
    auto.register(config, model_with_head, exist_ok=True)
    return config, model, model_with_head
