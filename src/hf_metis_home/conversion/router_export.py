"""The router with what it reads through (vision tower, embeddings, shared layers) as a model of its own."""

import copy
from pathlib import Path

import torch

from ..modeling import MetisHomeConfig, MetisHomeModel
from .checkpoint import Checkpoint, LazyTensor
from .hub_folder import write_hybrid


def router_config(config: MetisHomeConfig) -> MetisHomeConfig:
    """The configuration of a two-branch model cut to its shared layers."""
    config = copy.deepcopy(config)
    config.calibration = None  # is about answers, which a router does not give
    text = config.text_config
    text.num_hidden_layers = config.router_layer
    text.layer_types = text.layer_types[: config.router_layer]
    config.auto_map = {name: value for name, value in config.auto_map.items() if name in ("AutoConfig", "AutoModel")}
    return config


def router_tensors(tensors: dict[str, LazyTensor], config: MetisHomeConfig) -> dict[str, LazyTensor]:
    """Those tensors of a two-branch model that its router needs."""
    layers = tuple(f".language_model.layers.{layer}." for layer in range(config.router_layer))
    return {
        name: tensor
        for name, tensor in tensors.items()
        if name not in ("lm_head.weight", "model.language_model.norm.weight")
        and (".language_model.layers." not in name or any(layer in name for layer in layers))
    }


def load_router(tensors: dict[str, LazyTensor], config: MetisHomeConfig) -> MetisHomeModel:
    """Load the router and what it reads through, nothing else, in the dtype of the model's weights."""
    state = {name.removeprefix("model."): tensor.read() for name, tensor in router_tensors(tensors, config).items()}
    dtype = tensors["model.language_model.embed_tokens.weight"].dtype
    model = MetisHomeModel.from_pretrained(None, config=router_config(config), state_dict=state, dtype=dtype)
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def stored_router(model: MetisHomeModel) -> dict[str, LazyTensor]:
    """The router's own tensors by their names in a checkpoint."""
    state = model.language_model.router.state_dict()
    return {f"{model.config.text_model}router.{name}": LazyTensor.of(tensor.cpu()) for name, tensor in state.items()}


def write_router(hybrid: Checkpoint, folder: Path) -> None:
    """Write the router with what it reads through."""
    write_hybrid(folder, router_tensors(hybrid.tensors, hybrid.config), router_config(hybrid.config), hybrid)
