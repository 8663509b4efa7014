"""The router with what it reads through (vision tower, embeddings, the shared layers), as a model of its own."""

import copy
from collections.abc import Iterable

from ..modeling import MetisHomeConfig


def router_config(config: MetisHomeConfig) -> MetisHomeConfig:
    """The configuration of a two-branch model cut to its shared layers."""
    config = copy.deepcopy(config)
    config.calibration = None  # is about answers, which a router alone has not
    text = config.text_config
    text.num_hidden_layers = text.router_layer
    text.layer_types = text.layer_types[: text.router_layer]
    config.auto_map = {name: value for name, value in config.auto_map.items() if name in ("AutoConfig", "AutoModel")}
    return config


def router_tensor_names(names: Iterable[str], config: MetisHomeConfig) -> list[str]:
    """Of the tensors of a two-branch model, those that its router needs."""
    layers = tuple(f".language_model.layers.{layer}." for layer in range(config.text_config.router_layer))
    return [
        name
        for name in names
        if name != "lm_head.weight"
        and (".language_model.layers." not in name or any(layer in name for layer in layers))
    ]
