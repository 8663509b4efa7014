"""PEFT LoRA adapters: which modules of a hybrid they go on, and how adapters over the dense model become branches."""

import logging
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..modeling.configuration_metis_home import ATTENTION_PROJECTIONS, BRANCHES, FFN_PROJECTIONS, MetisHomeConfigMixin
from .checkpoint import LazyTensor, native_name, open_file, resolve_folder, some
from .low_rank import LowRankDelta


logger = logging.getLogger(__name__)

PROJECTION = re.compile(
    r"model\.language_model\.layers\.(?P<layer>\d+)\."
    rf"(self_attn\.({'|'.join(ATTENTION_PROJECTIONS)})|mlp\.({'|'.join(FFN_PROJECTIONS)}))"
)


# Fields of PEFT's LoraConfig; an adapter that sets one is more than `W + scaling * B @ A`.
VARIANTS = (
    "use_dora", "modules_to_save", "fan_in_fan_out", "lora_bias", "layer_replication", "target_parameters",
    "trainable_token_indices", "alora_invocation_tokens", "use_qalora", "use_bdlora", "arrow_config", "kasa_config",
    "monteclora_config", "velora_config",
)  # fmt: skip
# Values of `init_lora_weights` that leave `W` alone. PiSSA, OLoRA, CorDA, LoRA-GA and LoftQ subtract from it.
PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")


def branch_target_modules(branch: Literal["thinking", "non_thinking", "both"], attention: bool = False) -> str:
    r"""
    The regular expression for PEFT's `target_modules` that adapts one branch, or both.

    An adapter on one branch leaves the other branch's answers unchanged, to the last bit; one that also adapts the
    attention, which both branches share, does not. The vision tower, embeddings, head, router and the shared layers
    before the router never match; to train the router too, pass PEFT `modules_to_save=["router"]`. PEFT refuses
    branches of the `"lora"` kind, which are low-rank deltas already; train those directly.

    Args:
        branch (`str`):
            `"thinking"`, `"non_thinking"` or `"both"`: which feed-forward networks to adapt.
        attention (`bool`, *optional*, defaults to `False`):
            Also adapt the attention of every decoder layer, including those before the router.

    Returns:
        `str`: matches full module names, with or without the language-model head around the model.

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
    modules = rf"mlp\.{adapted}\.(gate|up|down)_proj" + (r"|self_attn\.[qkvo]_proj" if attention else "")
    return rf"(.*\.)?layers\.\d+\.({modules})"


@dataclass
class Adapter:
    """A PEFT LoRA adapter: its file, and its deltas by dense module (`model.language_model.layers.0.mlp...`)."""

    path: Path
    deltas: dict[str, LowRankDelta]


def read_adapter(name_or_path: str | Path, argument: str, base_model: str) -> Adapter:
    """
    Open a PEFT LoRA adapter over a dense Qwen2.5-VL.

    Raises:
        FileNotFoundError: no such folder or repository, or no safetensors in it.
        ValueError: another kind of adapter than plain LoRA, or one on modules that branches do not have.
    """
    from peft import PeftConfig
    from peft.utils.other import get_pattern_key

    folder = resolve_folder(name_or_path, argument, "adapter_config.json")
    path = folder / "adapter_model.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"`{argument}` is {str(name_or_path)!r}, without adapter_model.safetensors. Save it again with PEFT."
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
            f"`{argument}` is {str(name_or_path)!r}, an adapter with {', '.join(wrong)}, but a branch can only be "
            "plain LoRA. Merge it into its base with PEFT and pass the result as a model, or (PiSSA, OLoRA, CorDA, "
            "LoRA-GA) save it as plain LoRA: `save_pretrained(..., path_initial_model_for_weight_conversion=...)`."
        )
    if config.base_model_name_or_path and config.base_model_name_or_path != base_model:
        logger.warning(
            "`%s` was trained on %r, but the dense model is %r: make sure that both have the same weights.",
            argument, config.base_model_name_or_path, base_model,
        )  # fmt: skip

    # Pair up the two tensors of every module.
    pairs, unknown = {}, []
    for name, tensor in open_file(path, argument).items():
        module, _, part = native_name(name.removeprefix("base_model.model.")).rpartition(".lora_")
        if part in ("A.weight", "B.weight") and PROJECTION.fullmatch(module):
            pairs.setdefault(module, {})[part[0]] = tensor
        else:
            unknown.append(name)
    if unknown or not pairs:
        raise ValueError(
            f"`{argument}` is {str(name_or_path)!r}, an adapter with {len(unknown)} tensors that a branch has no place "
            f"for: {some(sorted(unknown))}. Branches change {', '.join(FFN_PROJECTIONS + ATTENTION_PROJECTIONS)} of "
            "decoder layers; train only those, or merge the adapter and pass the result as a model."
        )
    deltas = {}
    for module, pair in pairs.items():
        rank = pair["A"].shape[0]
        alpha = config.alpha_pattern.get(get_pattern_key(config.alpha_pattern, module), config.lora_alpha)
        deltas[module] = LowRankDelta(**pair, scaling=alpha / (math.sqrt(rank) if config.use_rslora else rank))
    return Adapter(path, deltas)


def branch_options(adapters: dict[str, Adapter], options: dict) -> dict:
    """The given options of a hybrid, completed so that the adapters fit into its branches."""
    if not adapters:
        return options
    options = {"branch_kind": "lora", **{name: value for name, value in options.items() if value is not None}}
    if options["branch_kind"] != "lora":
        return options
    deltas = [delta for adapter in adapters.values() for delta in adapter.deltas.values()]
    used = {module.rpartition(".")[2] for adapter in adapters.values() for module in adapter.deltas}
    rank = max(delta.A.shape[0] for delta in deltas)
    options.setdefault("branch_rank", rank)
    options.setdefault("branch_projections", [p for p in FFN_PROJECTIONS + ATTENTION_PROJECTIONS if p in used])
    scalings = {delta.scaling for delta in deltas}
    # If the adapters agree on one, `A` and `B` are kept to the last bit; otherwise the difference goes into `B`.
    scaling = scalings.pop() if len(scalings) == 1 else 1.0
    options.setdefault("branch_alpha", scaling * options["branch_rank"])
    if options["branch_rank"] < rank:
        raise ValueError(f"`branch_rank` is {options['branch_rank']}, but an adapter has rank {rank}. Use {rank}.")
    if missing := sorted(used - set(options["branch_projections"])):
        raise ValueError(f"`branch_projections` lacks {missing}, which an adapter changes. Add them.")
    return options


def check_adapter(adapter: Adapter, argument: str, dense: dict[str, LazyTensor], config: MetisHomeConfigMixin) -> None:
    """Raise an error if an adapter does not fit the dense model or the branches it is for."""
    for module, delta in adapter.deltas.items():
        weight = dense.get(f"{module}.weight")
        shape = (delta.B.shape[0], delta.A.shape[1])
        if weight is None or shape != weight.shape:
            raise ValueError(
                f"`{argument}` belongs to another base model: its delta of {module} is {shape}, the dense model's "
                f"weight {'absent' if weight is None else weight.shape}. Pass the model that it was trained on."
            )
        if int(PROJECTION.fullmatch(module)["layer"]) < config.router_layer:
            raise ValueError(
                f"`{argument}` changes {module}, but the first {config.router_layer} layers are shared by both "
                f"branches (`router_layer={config.router_layer}`). Use `router_layer=0`, or train the adapter on later "
                "layers."
            )
        if config.branch_kind == "ffn" and ".self_attn." in module:
            raise ValueError(f"`{argument}` changes {module}, but 'ffn' branches share the attention. Use 'lora'.")
