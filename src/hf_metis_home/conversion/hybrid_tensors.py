"""The configuration and the tensors of a two-branch model, from those of its sources; no tensor is read yet."""

import torch
from transformers import PreTrainedConfig

from ..modeling import MetisHomeConfigMixin, hybrid_classes
from ..modeling.configuration_metis_home import BRANCHES
from ..modeling.router_metis_home import MetisHomeRouter
from .adapters import Adapter, check_adapter
from .checkpoint import OF_THE_CLASS, LazyTensor, branch_name, is_branch_tensor
from .low_rank import add_delta, low_rank_tensors


SHARED_FROM = ("base", "thinking", "mean")
# Settings that change what the same weights compute.
CONSTANTS = {
    "text_config": (
        "hidden_act", "rms_norm_eps", "num_attention_heads", "num_key_value_heads", "layer_types", "rope_parameters"
    ),
    "vision_config": (
        "hidden_act", "num_heads", "patch_size", "spatial_merge_size", "window_size", "fullatt_block_indexes"
    ),
}  # fmt: skip
OPTIONS = (
    "branch_kind", "branch_rank", "branch_alpha", "branch_projections",
    "router_layer", "router_pooling", "router_hidden_size",
)  # fmt: skip


def hybrid_config(dense_config: PreTrainedConfig, **options) -> MetisHomeConfigMixin:
    """The two-branch configuration of a dense one. Raises an error for unknown options."""
    if unknown := sorted(options.keys() - set(OPTIONS)):
        raise ValueError(f"Unknown options {unknown}; a two-branch model takes {list(OPTIONS)}.")
    options = {name: value for name, value in options.items() if value is not None}
    fields = {name: value for name, value in dense_config.to_dict().items() if name not in OF_THE_CLASS}
    config = hybrid_classes(dense_config.model_type)[0](**fields, **options)
    if config.is_router_only:
        raise ValueError(f"`router_layer` is {config.router_layer}, which leaves no layer for the branches. Lower it.")
    unused = sorted(options.keys() & {"branch_rank", "branch_alpha", "branch_projections"})
    if unused and config.branch_kind == "ffn":
        raise ValueError(f"{unused} have no effect with `branch_kind='ffn'`. Drop them, or choose 'lora'.")
    return config


def hybrid_tensors(
    sources: dict[str, dict[str, LazyTensor]],
    config: MetisHomeConfigMixin,
    adapters: dict[str, Adapter] | None = None,
    *,
    shared_from: str = "base",
    dtype: torch.dtype | None = None,
    seed: int = 0,
) -> dict[str, LazyTensor]:
    """
    The tensors of a two-branch model, none of them read yet.

    Args:
        sources (`dict[str, dict[str, LazyTensor]]`):
            Checked tensors of `dense_model` and, if given, `thinking_model` and `non_thinking_model`.
        adapters (`dict[str, Adapter]`, *optional*):
            By branch.
        shared_from, dtype, seed:
            As in [`upcycle_checkpoint`].

    Raises:
        ValueError: sources that do not fit each other or the options.
    """
    adapters = adapters or {}
    dense = sources["dense_model"]
    _check_sources(sources, adapters, config.branch_kind, shared_from)
    for branch, adapter in adapters.items():
        check_adapter(adapter, f"{branch}_adapter", dense, config)

    deltas = {branch: adapter.deltas for branch, adapter in adapters.items()}
    tensors = {}
    for name in dense:
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if config.branch_kind == "lora" or not is_branch_tensor(name, config.router_layer):
            tensors[name] = _shared(name, sources, shared_from).to(dtype)
            continue
        for branch in BRANCHES:
            source = sources.get(f"{branch}_model", dense)[name]
            source = add_delta(source, deltas.get(branch, {}).get(name.removesuffix(".weight")))
            tensors[branch_name(name, branch)] = source.to(dtype)
    if config.branch_kind == "lora":
        tensors |= low_rank_tensors(dense, config, deltas, dtype, seed)

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        router = MetisHomeRouter(config).state_dict()
    return tensors | {f"{config.text_model}router.{name}": LazyTensor.of(tensor) for name, tensor in router.items()}


def _check_sources(sources: dict, adapters: dict[str, Adapter], branch_kind: str, shared_from: str) -> None:
    if shared_from not in SHARED_FROM:
        raise ValueError(f"`shared_from` is {shared_from!r}, but must be one of {list(SHARED_FROM)}.")
    own = [f"{branch}_model" for branch in BRANCHES if f"{branch}_model" in sources]
    if own and branch_kind == "lora":
        raise ValueError(
            f"`{own[0]}` gives a whole feed-forward network, not the delta of a 'lora' branch. Use 'ffn', or turn"
            f" the difference into an adapter and pass it as `{own[0].replace('_model', '_adapter')}`."
        )
    for branch in adapters:
        if f"{branch}_model" in sources:
            raise ValueError(f"`{branch}_model` and `{branch}_adapter` both give the {branch} branch. Pass one.")
    if adapters and shared_from != "base":
        raise ValueError(f"`shared_from` is {shared_from!r}, but adapters only fit the dense weights. Use 'base'.")
    if shared_from == "thinking" and "thinking_model" not in sources:
        raise ValueError("`shared_from` is 'thinking', but `thinking_model` is not given. Pass one, or use 'base'.")
    if shared_from == "mean" and not own:
        raise ValueError("`shared_from='mean'` needs a `thinking_model` or `non_thinking_model`. Pass one, or 'base'.")
    dense = sources["dense_model"]
    for argument in own:
        for name in [*dense, *sources[argument]]:
            if name == "lm_head.weight":
                continue  # optional if tied
            found, wanted = (s[name].shape if name in s else "absent" for s in (sources[argument], dense))
            if found != wanted:
                raise ValueError(
                    f"`{argument}` and the dense model disagree on {name}: {found} against {wanted}. Sizes must match."
                )
    tied = any("lm_head.weight" not in sources[argument] for argument in own)
    if shared_from != "base" and "lm_head.weight" in dense and tied:
        raise ValueError("The sources disagree on tying the head to the embeddings. Use `shared_from='base'`.")


def check_configs(configs: dict[str, PreTrainedConfig]) -> None:
    """Raise an error if sources compute differently with equal weights, which branches of one model cannot."""
    dense = next(iter(configs.values()))
    for argument, config in configs.items():
        for part, field in ((part, field) for part, fields in CONSTANTS.items() for field in fields):
            found, needed = (
                getattr(getattr(each, part, each.get_text_config()), field, None) for each in (config, dense)
            )
            if found != needed:
                raise ValueError(
                    f"`{argument}` has {field}={found!r} in its {part}, but the dense model has {needed!r}."
                    " Use sources of one family."
                )


def _shared(name: str, sources: dict[str, dict[str, LazyTensor]], shared_from: str) -> LazyTensor:
    dense = sources["dense_model"]
    if shared_from == "base":
        return dense[name]
    thinking = sources.get("thinking_model", dense)[name]
    if shared_from == "thinking":
        return thinking
    non_thinking = sources.get("non_thinking_model", dense)[name]
    return LazyTensor(
        thinking.shape,
        thinking.dtype,
        lambda: ((thinking.read().float() + non_thinking.read().float()) / 2).to(thinking.dtype),
    )
