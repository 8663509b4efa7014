"""
Upcycling: a dense Qwen2.5-VL becomes a two-branch model whose branches both equal it (arXiv 2510.20519, section on
Stage-SFT: both experts start from the RL-trained dense model).

The source is read whole; the two-branch model and the source are in memory together.
"""

import json
from pathlib import Path

import torch
import transformers
from transformers import AutoProcessor, GenerationConfig, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from ..modeling import MetisHomeConfig, MetisHomeForConditionalGeneration
from ..modeling.configuration_metis_home import BRANCHES
from ..modeling.modeling_metis_home import MetisHomeRouter
from .chat_template import prepare_processor
from .checkpoint import check_tensors, read_config, read_tensors, resolve_folder
from .hub_folder import check_output_dir, save_hub_folder


def upcycle(
    dense_model: Qwen2_5_VLForConditionalGeneration,
    processor=None,
    *,
    thinking_model: Qwen2_5_VLForConditionalGeneration | None = None,
    non_thinking_model: Qwen2_5_VLForConditionalGeneration | None = None,
    seed: int = 0,
    **router_options,
) -> MetisHomeForConditionalGeneration:
    """
    Two branches from a dense model in memory. The result shares no memory with its sources.

    Args:
        dense_model ([`~transformers.Qwen2_5_VLForConditionalGeneration`]):
            Gives the shared weights, and both branches unless they have a source of their own.
        processor ([`~transformers.Qwen2_5_VLProcessor`], *optional*):
            Changed in place: its chat template learns `enable_thinking`, and the configuration learns its token ids.
        thinking_model, non_thinking_model ([`~transformers.Qwen2_5_VLForConditionalGeneration`], *optional*):
            Give the feed-forward weights of that branch. Their shapes must be the dense model's.
        seed (`int`, *optional*, defaults to 0):
            Seed of the router's initial weights.
        router_options:
            `router_layer`, `router_pooling`, `router_hidden_size` of [`MetisHomeTextConfig`].

    Returns:
        [`MetisHomeForConditionalGeneration`] in the source's dtype, the router in fp32. Either branch computes what its
        source computes; the router is untrained and gives every query probability 0.5.

    Raises:
        ValueError: a source that is not a dense Qwen2.5-VL, or sources whose shapes differ.

    Example:

    ```python
    >>> from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration
    >>> from hf_metis_home import upcycle

    >>> dense = Qwen2_5_VLForConditionalGeneration.from_pretrained("runs/demo/base")
    >>> processor = AutoProcessor.from_pretrained("runs/demo/base")
    >>> model = upcycle(dense, processor, router_layer=1)
    ```
    """
    sources = {"dense_model": dense_model, "thinking_model": thinking_model, "non_thinking_model": non_thinking_model}
    tensors = {}
    for argument, model in sources.items():
        if model is None:
            continue
        if not isinstance(model, Qwen2_5_VLForConditionalGeneration) or model.config.model_type != "qwen2_5_vl":
            raise ValueError(
                f"`{argument}` is a {type(model).__name__}, but only a dense Qwen2_5_VLForConditionalGeneration can be "
                "upcycled."
            )
        tensors[argument] = dict(model.state_dict())
        check_tensors(tensors[argument], model.config, argument, f"a {type(model).__name__} in memory")
    model = _build(dense_model.config, tensors, dtype=dense_model.dtype, seed=seed, **router_options)
    model.generation_config = GenerationConfig.from_dict(dense_model.generation_config.to_dict())
    if processor is not None:
        prepare_processor(processor, model.config)
    return model


def upcycle_checkpoint(
    model_name_or_path: str | Path,
    output_dir: str | Path,
    *,
    thinking_model: str | Path | None = None,
    non_thinking_model: str | Path | None = None,
    dtype: str | None = None,
    seed: int = 0,
    **router_options,
) -> Path:
    """
    Two branches from checkpoint folders or Hub repositories, written as a complete Hub folder.

    Args:
        model_name_or_path (`str` or `Path`):
            Dense Qwen2.5-VL checkpoint (safetensors, either key layout) with its processor.
        output_dir (`str` or `Path`):
            Folder to write. Must not exist, or be empty. It appears only when it is complete.
        thinking_model, non_thinking_model (`str` or `Path`, *optional*):
            Checkpoints that give the feed-forward weights of that branch.
        dtype (`str`, *optional*):
            `"float32"`, `"bfloat16"` or `"float16"`; the source's dtype by default.
        seed (`int`, *optional*, defaults to 0):
            Seed of the router's initial weights.
        router_options:
            `router_layer`, `router_pooling`, `router_hidden_size` of [`MetisHomeTextConfig`].

    Returns:
        `Path`: the folder. Beside the model it holds `upcycle.json`: the arguments and versions that made it.

    Raises:
        FileExistsError: `output_dir` has content.
        FileNotFoundError: a source is missing or has no safetensors.
        ValueError: another architecture, tensors that are missing, extra or of another shape, sources that disagree,
            an unknown dtype or router option.
    """
    output_dir = check_output_dir(output_dir)
    if dtype not in (None, "float32", "bfloat16", "float16"):
        raise ValueError(f"`dtype` is {dtype!r}, but must be 'float32', 'bfloat16' or 'float16'.")
    given = {
        "model_name_or_path": model_name_or_path,
        "thinking_model": thinking_model,
        "non_thinking_model": non_thinking_model,
    }
    folders = {argument: resolve_folder(source, argument) for argument, source in given.items() if source is not None}
    configs = {argument: read_config(folder, argument) for argument, folder in folders.items()}
    config = configs["model_name_or_path"]
    hybrid_config(config, **router_options)  # errors in the options show before gigabytes are read
    tensors = {}
    for argument, folder in folders.items():
        tensors[argument] = read_tensors(folder, argument)
        check_tensors(tensors[argument], configs[argument], argument, str(given[argument]))
    tensors["dense_model"] = tensors.pop("model_name_or_path")
    stored = next(tensor.dtype for tensor in tensors["dense_model"].values() if tensor.is_floating_point())
    model = _build(config, tensors, dtype=getattr(torch, dtype) if dtype else stored, seed=seed, **router_options)

    dense_folder = folders["model_name_or_path"]
    if (dense_folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(dense_folder)
    processor = AutoProcessor.from_pretrained(dense_folder)
    prepare_processor(processor, model.config)

    record = {
        **{argument: None if source is None else str(source) for argument, source in given.items()},
        **{"dtype": str(model.dtype).removeprefix("torch."), "seed": seed, **router_options},
        "versions": {"transformers": transformers.__version__, "torch": torch.__version__},
    }
    return save_hub_folder(
        model,
        processor,
        output_dir,
        files={"upcycle.json": json.dumps(record, indent=2) + "\n"},
        stage="upcycled",
        base_model=str(model_name_or_path),
        thinking_model=None if thinking_model is None else str(thinking_model),
        non_thinking_model=None if non_thinking_model is None else str(non_thinking_model),
    )


def hybrid_config(dense_config: Qwen2_5_VLConfig, **router_options) -> MetisHomeConfig:
    """The two-branch configuration of a dense one. An error for options that are not the router's."""
    known = {"branch_kind", "router_layer", "router_pooling", "router_hidden_size"}
    if unknown := sorted(router_options.keys() - known):
        raise ValueError(f"Unknown options {unknown}; a two-branch model takes {sorted(known)}.")
    options = {name: value for name, value in router_options.items() if value is not None}
    fields = dense_config.to_dict()
    for name in ("model_type", "architectures", "auto_map", "transformers_version"):
        fields.pop(name, None)
    fields["text_config"] = {**fields["text_config"], **options}
    fields["text_config"].pop("model_type", None)
    return MetisHomeConfig(**fields)


def _build(
    dense_config: Qwen2_5_VLConfig,
    tensors: dict[str, dict[str, torch.Tensor]],
    dtype: torch.dtype,
    seed: int,
    **router_options,
) -> MetisHomeForConditionalGeneration:
    """The two-branch model from checked tensors of `dense_model` and, where given, `thinking_model`, ..."""
    config = hybrid_config(dense_config, **router_options)
    dense = tensors["dense_model"]
    state = {}
    for name, tensor in dense.items():
        if not _is_branch(name, config.text_config.router_layer):
            state[name] = tensor.clone()
            continue
        for branch in BRANCHES:
            source = tensors.get(f"{branch}_model", dense)
            if name not in source or source[name].shape != tensor.shape:
                found = tuple(source[name].shape) if name in source else "absent"
                raise ValueError(
                    f"`{branch}_model` and the dense model disagree in {name}: {found} against {tuple(tensor.shape)}. "
                    "All sources must have the same sizes."
                )
            state[name.replace(".mlp.", f".mlp.{branch}.")] = source[name].clone()

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        router = MetisHomeRouter(config.text_config)
    state.update({f"model.language_model.router.{name}": tensor for name, tensor in router.state_dict().items()})
    model, info = MetisHomeForConditionalGeneration.from_pretrained(
        None, config=config, state_dict=state, dtype=dtype, output_loading_info=True
    )
    if wrong := {
        kind: sorted(info[kind]) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") if info[kind]
    }:
        raise RuntimeError(f"The two-branch model did not take its weights, which is a bug in the conversion: {wrong}.")
    return model


def _is_branch(name: str, router_layer: int) -> bool:
    """Whether a dense tensor is copied into both branches: the feed-forward weights from layer `router_layer` on."""
    prefix, _, rest = name.partition("language_model.layers.")
    if prefix != "model." or not rest:
        return False
    layer, module = rest.split(".")[:2]
    return module == "mlp" and int(layer) >= router_layer
