"""
Upcycling: makes a two-branch model from a dense Qwen2.5-VL, with branches equal to their sources (arXiv 2510.20519:
both experts start from the RL-trained dense model).
"""

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import torch
from transformers import AutoProcessor, GenerationConfig, PreTrainedModel

from .._folders import check_output_dir, staged_folder
from .._versions import versions
from ..modeling import BACKBONES, hybrid_classes
from .adapters import branch_options, read_adapter
from .checkpoint import LazyTensor, check_tensors, dense_class, open_checkpoint, sha256_of
from .hub_folder import local_sources, write_hybrid, write_record
from .hybrid_tensors import check_configs, hybrid_config, hybrid_tensors
from .processor import prepare_processor
from .router_examples import check_examples, initialise_router
from .router_export import load_router, stored_router
from .tensor_writer import check_space


logger = logging.getLogger(__name__)


def upcycle(
    dense_model: PreTrainedModel,
    processor=None,
    *,
    thinking_model: PreTrainedModel | None = None,
    non_thinking_model: PreTrainedModel | None = None,
    shared_from: Literal["base", "thinking", "mean"] = "base",
    seed: int = 0,
    **options,
) -> PreTrainedModel:
    """
    Make a two-branch model from a dense model in memory. The result shares no memory with its sources.

    Args:
        dense_model ([`~transformers.PreTrainedModel`]):
            A model with its head, of any type in `hf_metis_home.modeling.BACKBONES`. Provides the shared weights, and
            those of a branch without a source of its own.
        processor ([`~transformers.Qwen2_5_VLProcessor`], *optional*):
            Changed in place: its chat template gets `enable_thinking`, and the configuration gets its token ids.
        thinking_model, non_thinking_model ([`~transformers.PreTrainedModel`], *optional*):
            Provides the feed-forward weights of that branch (`branch_kind="ffn"`), in the shapes of the dense model.
        shared_from (`str`, *optional*, defaults to `"base"`):
            Source of the shared weights: `"base"` the dense model, `"thinking"` the thinking model, `"mean"` the
            average of the sources of both branches.
        seed (`int`, *optional*, defaults to 0):
            Seed of the initial weights of the router and of low-rank branches.
        options:
            `branch_kind`, `branch_rank`, `branch_alpha`, `branch_projections`, `router_layer`, `router_pooling`,
            `router_hidden_size` of [`MetisHomeConfigMixin`].

    Returns:
        The hybrid of its type, for example [`MetisHomeForConditionalGeneration`], in the source's dtype, the router in
        fp32. A branch computes what its source computes if both have the same shared weights. The router is untrained:
        every query gets probability 0.5.

    Raises:
        ValueError: a source is not a dense model that can become a hybrid, sources have different shapes, an option
            is unknown or contradicts another.

    Example:

    ```python
    >>> from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration
    >>> from hf_metis_home import upcycle

    >>> dense = Qwen2_5_VLForConditionalGeneration.from_pretrained("runs/demo/base")
    >>> processor = AutoProcessor.from_pretrained("runs/demo/base")
    >>> model = upcycle(dense, processor, router_layer=1)
    ```
    """
    models = {"dense_model": dense_model, "thinking_model": thinking_model, "non_thinking_model": non_thinking_model}
    models = {argument: model for argument, model in models.items() if model is not None}
    sources, backbone = {}, getattr(getattr(dense_model, "config", None), "model_type", None)
    for argument, model in models.items():
        known = backbone in BACKBONES
        if not known or not isinstance(model, dense_class(backbone)) or model.config.model_type != backbone:
            needed = dense_class(backbone).__name__ if known else f"model, one of {list(BACKBONES)}"
            raise ValueError(f"`{argument}` is a {type(model).__name__}, but must be a dense {needed} with its head.")
        state = model.state_dict()
        check_tensors(state, model.config, argument, f"a {type(model).__name__} in memory")
        sources[argument] = {name: LazyTensor.of(tensor) for name, tensor in state.items()}
    config = hybrid_config(dense_model.config, **options)
    tensors = hybrid_tensors(sources, config, shared_from=shared_from, seed=seed)
    check_configs({argument: model.config for argument, model in models.items()})
    state = {name: tensor.read().clone() for name, tensor in tensors.items()}
    model, info = hybrid_classes(backbone)[2].from_pretrained(
        None, config=config, state_dict=state, dtype=dense_model.dtype, output_loading_info=True
    )
    wrong = {kind: sorted(info[kind]) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") if info[kind]}
    if wrong:
        raise RuntimeError(f"The two-branch model did not load its weights, which is a bug in the conversion: {wrong}.")
    model.config._name_or_path = dense_model.config._name_or_path  # `from_pretrained(None)` sets it to "None"
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
    thinking_adapter: str | Path | None = None,
    non_thinking_adapter: str | Path | None = None,
    shared_from: Literal["base", "thinking", "mean"] = "base",
    dtype: str | None = None,
    router_examples: list[dict] | None = None,
    seed: int = 0,
    command: str | None = None,
    **options,
) -> Path:
    """
    Make a two-branch model from checkpoint folders or Hub repositories, as a complete Hub folder.

    Tensors are read and written one at a time, so this needs memory for one tensor, not for a model.

    Args:
        model_name_or_path (`str` or `Path`):
            Dense Qwen2.5-VL checkpoint (safetensors, either key layout) with its processor.
        output_dir (`str` or `Path`):
            Folder to write. Must not exist, or be empty. It appears only when it is complete.
        thinking_model, non_thinking_model (`str` or `Path`, *optional*):
            Checkpoint that provides the feed-forward weights of that branch (`branch_kind="ffn"`).
        thinking_adapter, non_thinking_adapter (`str` or `Path`, *optional*):
            PEFT LoRA adapter over the dense model. It becomes the low-rank delta of that branch (`branch_kind="lora"`,
            then the default) or is merged into it (`branch_kind="ffn"`).
        shared_from (`str`, *optional*, defaults to `"base"`):
            Source of the shared weights: `"base"` the dense model, `"thinking"` the thinking model, `"mean"` the
            average of the sources of both branches.
        dtype (`str`, *optional*):
            `"float32"`, `"bfloat16"` or `"float16"`; by default every tensor keeps its own.
        router_examples (`list[dict]`, *optional*):
            Rows with `prompt`, `images` and `thinking` for [`initialise_router`]. Loads the vision tower, the
            embeddings and the shared layers.
        seed (`int`, *optional*, defaults to 0):
            Seed of the initial weights of the router and of low-rank branches.
        command (`str`, *optional*):
            The command line, for `upcycle.json`.
        options:
            `branch_kind`, `branch_rank`, `branch_alpha`, `branch_projections`, `router_layer`, `router_pooling`,
            `router_hidden_size` of [`MetisHomeConfigMixin`].

    Returns:
        `Path`: the folder. Its `upcycle.json` records the arguments, the versions and the SHA-256 of every input.

    Raises:
        FileExistsError: `output_dir` has content.
        FileNotFoundError: a source is missing or has no safetensors.
        OSError: the disk has too little room, or cannot be written.
        ValueError: another architecture; tensors that are missing, unexpected or of another shape; sources that
            disagree; an adapter that does not fit; an option that is unknown or contradicts another.
    """
    output_dir = check_output_dir(output_dir)
    if router_examples is not None:
        check_examples(router_examples)
    if dtype not in (None, "float32", "bfloat16", "float16"):
        raise ValueError(f"`dtype` is {dtype!r}, but must be 'float32', 'bfloat16' or 'float16'.")
    torch_dtype = getattr(torch, dtype) if dtype else None

    # Open and check all sources; nothing is read yet.
    given = {
        "model_name_or_path": model_name_or_path,
        "thinking_model": thinking_model,
        "non_thinking_model": non_thinking_model,
    }
    checkpoints = {name: open_checkpoint(source, name) for name, source in given.items() if source is not None}
    dense = checkpoints["model_name_or_path"]
    stored_head = dense.tensors.get("lm_head.weight")
    embeddings = dense.tensors["model.language_model.embed_tokens.weight"]
    if dense.config.tie_word_embeddings and stored_head and not torch.equal(stored_head.read(), embeddings.read()):
        logger.warning(
            "`model_name_or_path` is %r: its lm_head.weight differs from its embeddings although its configuration "
            "ties them. transformers ignores it, so it is left out.",
            str(model_name_or_path),
        )
    paths = {"thinking_adapter": thinking_adapter, "non_thinking_adapter": non_thinking_adapter}
    adapters = {
        argument.removesuffix("_adapter"): read_adapter(path, argument, str(model_name_or_path))
        for argument, path in paths.items()
        if path is not None
    }

    # Plan the hybrid.
    options = branch_options(adapters, options)
    config = hybrid_config(dense.config, **options)
    sources = {name.replace("model_name_or_path", "dense_model"): c.tensors for name, c in checkpoints.items()}
    tensors = hybrid_tensors(sources, config, adapters, shared_from=shared_from, dtype=torch_dtype, seed=seed)
    check_configs({name: checkpoint.config for name, checkpoint in checkpoints.items()})
    check_space(output_dir, tensors)
    config.dtype = torch_dtype or dense.config.dtype or tensors["model.language_model.norm.weight"].dtype
    processor = AutoProcessor.from_pretrained(dense.folder)
    prepare_processor(processor, config)
    if router_examples is not None:
        router = load_router(tensors, config)
        initialise_router(router, processor, router_examples)
        tensors |= stored_router(router)

    # Write it, and hash the inputs meanwhile.
    with staged_folder(output_dir) as staging, ThreadPoolExecutor(1) as background:
        hashes = {name: background.submit(sha256_of, checkpoint.files) for name, checkpoint in checkpoints.items()}
        write_hybrid(staging, tensors, config, dense, processor)
        record = {
            "command": command,
            **{name: None if source is None else str(source) for name, source in (given | paths).items()},
            **{"shared_from": shared_from, "dtype": dtype, "seed": seed, **options},
            "router_examples": None if router_examples is None else len(router_examples),
            "local_sources": local_sources(*given.values(), *paths.values()),
            "layout": dense.layout,
            "stored_head": stored_head is not None,
            "sha256": {
                **{name: future.result() for name, future in hashes.items()},
                **{f"{branch}_adapter": sha256_of([adapter.path]) for branch, adapter in adapters.items()},
            },
            "versions": versions(),
        }
        write_record(staging, "upcycle.json", record)
    return output_dir
