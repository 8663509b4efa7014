"""The router with what it reads through (vision tower, embeddings, the shared layers), as a model of its own."""

import copy
from collections.abc import Iterable
from pathlib import Path

from transformers import AutoProcessor

from ..modeling import MetisHomeConfig
from .checkpoint import Checkpoint
from .hub_folder import write_model_files
from .tensor_writer import check_space, shard_limit, write_shards


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


def write_router(hybrid: Checkpoint, staging: Path) -> None:
    """The router with what it reads through, in a folder."""
    tensors = {name: hybrid.tensors[name] for name in router_tensor_names(hybrid.tensors, hybrid.config)}
    check_space(staging.parent, sum(tensor.nbytes for tensor in tensors.values()))
    write_shards(staging, tensors, shard_limit(hybrid.files))
    write_model_files(staging, router_config(hybrid.config), hybrid.config.dtype)
    AutoProcessor.from_pretrained(hybrid.folder).save_pretrained(staging)
