"""
PEFT LoRA adapters and branches: which modules of a two-branch model an adapter is put on, and adapters over the dense
model that become a branch.
"""

import hashlib
import logging
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple
from zlib import crc32

import torch
from torch.nn.functional import pad

from ..modeling.configuration_metis_home import ATTENTION_PROJECTIONS, BRANCHES, FFN_PROJECTIONS, MetisHomeTextConfig
from .checkpoint import LazyTensor, native_name, open_file, resolve_folder, some


logger = logging.getLogger(__name__)

PROJECTION = re.compile(
    r"model\.language_model\.layers\.(?P<layer>\d+)\."
    rf"(self_attn\.({'|'.join(ATTENTION_PROJECTIONS)})|mlp\.({'|'.join(FFN_PROJECTIONS)}))"
)


# Fields of PEFT's LoraConfig that, where they are set, make of an adapter something else than `W + scaling * B @ A`.
VARIANTS = (
    "use_dora", "modules_to_save", "fan_in_fan_out", "lora_bias", "layer_replication", "target_parameters",
    "trainable_token_indices", "alora_invocation_tokens", "use_qalora", "use_bdlora", "arrow_config", "kasa_config",
    "monteclora_config", "velora_config",
)  # fmt: skip
# The values of `init_lora_weights` that leave `W` as it is. PiSSA, OLoRA, CorDA, LoRA-GA and LoftQ take something away.
PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")


def branch_target_modules(branch: Literal["thinking", "non_thinking", "both"], attention: bool = False) -> str:
    r"""
    The regular expression that PEFT takes as `target_modules` to adapt one branch, or both.

    An adapter on one branch leaves the answers of the other as they are, to the last bit. One that also adapts the
    attention, which the branches share, does not. The vision tower, the embeddings, the head, the router and the layers
    before the router, which have one feed-forward network for all, are never matched; to train the router along, pass
    PEFT `modules_to_save=["router"]`. A branch of the `"lora"` kind is a low-rank change already, which PEFT refuses to
    adapt; train it as it is.

    Args:
        branch (`str`):
            `"thinking"`, `"non_thinking"` or `"both"`: the feed-forward networks to adapt.
        attention (`bool`, *optional*, defaults to `False`):
            Also adapt the attention of every decoder layer, those before the router included.

    Returns:
        `str`: matches the full names of the modules in a model with or without a head.

    Raises:
        ValueError: `branch` is none of the three.

    Example:

    ```python
    >>> from peft import LoraConfig

    >>> from hf_metis_home import branch_target_modules

    >>> print(branch_target_modules("thinking"))
    (.*\.)?layers\.\d+\.(mlp\.thinking\.(gate|up|down)_proj)
    >>> config = LoraConfig(r=16, target_modules=branch_target_modules("thinking"), modules_to_save=["router"])
    ```
    """
    if branch not in (*BRANCHES, "both"):
        raise ValueError(f"`branch` is {branch!r}, but must be one of {[*BRANCHES, 'both']}.")
    adapted = f"({'|'.join(BRANCHES)})" if branch == "both" else branch
    modules = [rf"mlp\.{adapted}\.(gate|up|down)_proj"]
    if attention:
        modules.append(r"self_attn\.[qkvo]_proj")
    return rf"(.*\.)?layers\.\d+\.({'|'.join(modules)})"


class LowRankChange(NamedTuple):
    """`scaling * B @ A`, added to the weight of a linear layer. `A`: `(rank, in)`; `B`: `(out, rank)`."""

    A: LazyTensor
    B: LazyTensor
    scaling: float


@dataclass
class Adapter:
    """A PEFT LoRA adapter: its file, and its changes by the dense module (`model.language_model.layers.0.mlp...`)."""

    path: Path
    changes: dict[str, LowRankChange]

    def sha256(self) -> dict[str, str]:
        with self.path.open("rb") as file:
            return {self.path.name: hashlib.file_digest(file, "sha256").hexdigest()}


def read_adapter(name_or_path: str | Path, argument: str, base_model: str) -> Adapter:
    """
    Open a PEFT LoRA adapter over a dense Qwen2.5-VL.

    Raises:
        FileNotFoundError: no such folder or repository, or no safetensors in it.
        ValueError: another kind of adapter than plain LoRA, or modules that a branch cannot have.
    """
    from peft import PeftConfig
    from peft.utils.other import get_pattern_key

    folder = resolve_folder(name_or_path, argument, "adapter_config.json")
    path = folder / "adapter_model.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"`{argument}` is {str(name_or_path)!r}, which holds no adapter_model.safetensors. Save the adapter with "
            "PEFT's `save_pretrained`; pickles are not read."
        )
    config = PeftConfig.from_pretrained(str(folder))
    unfit = {
        "peft_type": getattr(config.peft_type, "value", config.peft_type) != "LORA",
        **{name: bool(getattr(config, name, None)) for name in VARIANTS},
        "bias": getattr(config, "bias", "none") != "none",
        "init_lora_weights": getattr(config, "init_lora_weights", None) not in PLAIN_STARTS,
    }
    if wrong := [f"{name}={getattr(config, name)!r}" for name, is_wrong in unfit.items() if is_wrong]:
        raise ValueError(
            f"`{argument}` is {str(name_or_path)!r}, an adapter with {', '.join(wrong)}, but a branch holds plain LoRA "
            "changes of the dense model's weights alone. Merge it into its base with PEFT and pass the result as a "
            "model, or make it plain LoRA where PEFT can (PiSSA, OLoRA, CorDA, LoRA-GA): "
            "`save_pretrained(..., path_initial_model_for_weight_conversion=...)`."
        )
    if config.base_model_name_or_path and config.base_model_name_or_path != base_model:
        logger.warning(
            "`%s` was trained over %r, while the dense model here is %r: make sure that they have the same weights.",
            argument, config.base_model_name_or_path, base_model,
        )  # fmt: skip

    halves, unknown = {}, []
    for name, tensor in open_file(path, argument).items():
        module, _, half = native_name(name.removeprefix("base_model.model.")).rpartition(".lora_")
        if half in ("A.weight", "B.weight") and PROJECTION.fullmatch(module):
            halves.setdefault(module, {})[half[0]] = tensor
        else:
            unknown.append(name)
    if unknown or not halves:
        raise ValueError(
            f"`{argument}` is {str(name_or_path)!r}, an adapter with {len(unknown)} tensors that a branch has no place "
            f"for: {some(sorted(unknown))}. A branch changes {', '.join(FFN_PROJECTIONS + ATTENTION_PROJECTIONS)} of "
            "decoder layers; train without the others, or merge the adapter and pass the result as a model."
        )
    changes = {}
    for module, pair in halves.items():
        rank = pair["A"].shape[0]
        alpha = config.alpha_pattern.get(get_pattern_key(config.alpha_pattern, module), config.lora_alpha)
        changes[module] = LowRankChange(**pair, scaling=alpha / (math.sqrt(rank) if config.use_rslora else rank))
    return Adapter(path, changes)


def branch_options(adapters: dict[str, Adapter], options: dict) -> dict:
    """The options of a two-branch model that can hold these adapters: those given, completed by what they need."""
    if not adapters:
        return options
    options = {"branch_kind": "lora", **{name: value for name, value in options.items() if value is not None}}
    if options["branch_kind"] != "lora":
        return options
    changes = [change for adapter in adapters.values() for change in adapter.changes.values()]
    used = {module.rpartition(".")[2] for adapter in adapters.values() for module in adapter.changes}
    rank = max(change.A.shape[0] for change in changes)
    options.setdefault("branch_rank", rank)
    options.setdefault("branch_projections", [p for p in FFN_PROJECTIONS + ATTENTION_PROJECTIONS if p in used])
    scalings = {change.scaling for change in changes}
    # Where the adapters agree their halves are kept to the last bit; else the difference goes into `lora_B`.
    scaling = scalings.pop() if len(scalings) == 1 else 1.0
    options.setdefault("branch_alpha", scaling * options["branch_rank"])
    if options["branch_rank"] < rank:
        raise ValueError(
            f"`branch_rank` is {options['branch_rank']}, but an adapter has rank {rank}. Use {rank} or more."
        )
    if missing := sorted(used - set(options["branch_projections"])):
        raise ValueError(f"`branch_projections` lacks {missing}, which an adapter changes. Add them.")
    return options


def check_adapter(adapter: Adapter, argument: str, dense: dict[str, LazyTensor], text: MetisHomeTextConfig) -> None:
    """An error where an adapter does not fit the dense model or the branches that are to be made."""
    for module, change in adapter.changes.items():
        weight = dense.get(f"{module}.weight")
        found = (change.B.shape[0], change.A.shape[1])
        if weight is None or found != weight.shape:
            raise ValueError(
                f"`{argument}` belongs to another base model: its change of {module} is {found}, the dense model's "
                f"weight {'absent' if weight is None else weight.shape}. Pass the model that it was trained over."
            )
        if int(PROJECTION.fullmatch(module)["layer"]) < text.router_layer:
            raise ValueError(
                f"`{argument}` changes {module}, but the first {text.router_layer} layers are shared by both branches "
                f"(`router_layer={text.router_layer}`). Use `router_layer=0`, or train the adapter on later layers."
            )
        if text.branch_kind == "ffn" and ".self_attn." in module:
            raise ValueError(
                f"`{argument}` changes {module}, but with `branch_kind='ffn'` attention is shared. Use 'lora'."
            )


def merged(name: str, weight: LazyTensor, adapter: Adapter) -> LazyTensor:
    """The weight of a dense model with the change that an adapter makes to it, if any."""
    change = adapter.changes.get(name.removesuffix(".weight"))
    return weight if change is None else add_change(weight, change)


def add_change(weight: LazyTensor, change: LowRankChange) -> LazyTensor:
    """Computed in fp32 and rounded to the type of the weight."""

    def read():
        delta = change.B.read().float() @ change.A.read().float() * change.scaling
        return (weight.read().float() + delta).to(weight.dtype)

    return LazyTensor(weight.shape, weight.dtype, read)


def low_rank_name(module: str, branch: str, half: Literal["A", "B"]) -> str:
    """Where a two-branch model of the `"lora"` kind keeps one half of a branch's change of a dense module."""
    parent, _, projection = module.rpartition(".")
    return f"{parent}.{branch}.{projection}.lora_{half}.weight"


def low_rank_modules(text: MetisHomeTextConfig) -> list[str]:
    """The dense modules that the branches of the `"lora"` kind change."""
    parents = {**dict.fromkeys(FFN_PROJECTIONS, "mlp"), **dict.fromkeys(ATTENTION_PROJECTIONS, "self_attn")}
    return [
        f"model.language_model.layers.{layer}.{parents[projection]}.{projection}"
        for layer in range(text.router_layer, text.num_hidden_layers)
        for projection in text.branch_projections
    ]


def low_rank_tensors(
    dense: dict[str, LazyTensor],
    text: MetisHomeTextConfig,
    adapters: dict[str, Adapter],
    dtype: torch.dtype | None,
    seed: int,
) -> dict[str, LazyTensor]:
    """The changes of both branches: an adapter's, or nothing yet (random `lora_A`, `lora_B` of zeros, as PEFT's)."""
    tensors, rank = {}, text.branch_rank
    scaling = text.branch_alpha / rank
    for module in low_rank_modules(text):
        weight = dense[f"{module}.weight"]
        for branch in BRANCHES:
            names = [low_rank_name(module, branch, half) for half in ("A", "B")]
            change = adapters[branch].changes.get(module) if branch in adapters else None
            A, B = no_change(weight, rank, f"{seed} {names[0]}") if change is None else _fitted(change, rank, scaling)
            tensors |= {names[0]: A.to(dtype), names[1]: B.to(dtype)}
    return tensors


def _fitted(change: LowRankChange, rank: int, scaling: float) -> tuple[LazyTensor, LazyTensor]:
    """The halves of a change at the rank and scaling of the model; where these are its own, to the last bit."""
    missing, factor = rank - change.A.shape[0], change.scaling / scaling
    A, B = change.A, change.B
    if missing:
        A = LazyTensor((rank, A.shape[1]), A.dtype, lambda: pad(change.A.read(), (0, 0, 0, missing)))
    if missing or factor != 1.0:
        B = LazyTensor((B.shape[0], rank), B.dtype, lambda: pad(change.B.read() * factor, (0, missing)))
    return A, B


def no_change(weight: LazyTensor, rank: int, seed: str) -> tuple[LazyTensor, LazyTensor]:
    """The halves of a change that does nothing until it is trained: random `A`, as PEFT draws it, and zeros for `B`."""
    out_features, in_features = weight.shape

    def start():
        generator = torch.Generator().manual_seed(crc32(seed.encode()))
        bound = 1 / math.sqrt(in_features)
        return torch.empty(rank, in_features).uniform_(-bound, bound, generator=generator).to(weight.dtype)

    A = LazyTensor((rank, in_features), weight.dtype, start)
    B = LazyTensor((out_features, rank), weight.dtype, lambda: torch.zeros(out_features, rank, dtype=weight.dtype))
    return A, B
