"""
Parameters, memory and disk that a model needs, from its configuration, before anything is downloaded or written.

Not included: activations, which depend on images, attention implementation and gradient checkpointing; the layers that
FSDP gathers while they compute; CUDA's own memory. Measure those with a few steps.
"""

import math
from math import prod
from pathlib import Path

from transformers import PreTrainedConfig, Qwen2_5_VLConfig

from ..modeling import MetisHomeConfig
from ..modeling.configuration_metis_home import BRANCHES
from .checkpoint import DENSE, HYBRID, expected_shapes
from .dense_export import dense_config
from .hybrid_tensors import hybrid_config


WEIGHT_BYTES, ROUTER_BYTES = 2, 4  # bf16, fp32
TRAINED_BYTES = 4 + 4 + 2 * 4  # weight, gradient and the two states of AdamW, all fp32
FORMULA = (
    "Training: 16 bytes per trained parameter (fp32 weight 4, gradient 4, AdamW 8; `bf16=True` computes in bf16 but "
    "stores fp32), 2 per frozen one (bf16; router 4). FSDP divides the total by its GPUs. Activations not included."
)


def estimate_memory(
    model_name_or_path: str | Path, *, gpus: int = 8, tokens: int = 8192, batch: int = 1, **options
) -> dict:
    """
    Estimate parameters, memory and disk of a dense Qwen2.5-VL and of the two-branch models made from it.

    Reads only the configuration; shapes come from models on the meta device.

    - Weights for inference, and a bf16 checkpoint on disk: 2 bytes per parameter (bf16), 4 in the router (fp32).
    - KV cache: `2 bytes * (keys + values) * layers * key-value heads * head size * tokens * batch`, the same for all
      models, because branches share attention.
    - Training: 16 bytes per trained parameter: weight, gradient and AdamW's two states in fp32, as with
      `TrainingArguments(bf16=True)`, which is autocast over an fp32 model (what TRL's trainers load by default; FSDP
      and PEFT also keep trained parameters in fp32). With gradient checkpointing (TRL's default) autocast's bf16 copies
      are freed before all gradients exist. Frozen parameters: 2 bytes (bf16, as PEFT and FSDP leave them; 4 if a single
      GPU loads the whole model in fp32), the router 4. Training in pure bf16 needs half, but rounds AdamW's small
      updates away.
    - FSDP shards parameters, gradients and optimizer states: the bytes are divided by `gpus`.

    Args:
        model_name_or_path (`str` or `Path`):
            Folder with a config.json, path of a config.json, or Hub repository; dense Qwen2.5-VL or two-branch.
        gpus (`int`, *optional*, defaults to 8):
            GPUs of an FSDP run.
        tokens, batch (`int`, *optional*, default to 8192 and 1):
            Size of the KV cache: tokens per row (images, prompt and answer), and rows.
        options:
            For a dense source: `branch_kind` (by default both kinds), `branch_rank`, `branch_projections`,
            `router_layer` of [`MetisHomeConfigMixin`].

    Returns:
        `dict`: `model`, `gpus`, `tokens`, `batch`, `low_rank` (the rank of low-rank training) and `models`: `"dense"`,
        `"ffn"`, `"lora"` to

        - `parameters`: `stored`, `branch` (each of the two), `router`, `active` (used by one answer: shared part, one
          branch, router);
        - `inference_bytes`: `weights`, `one_branch` (loaded with `only_branch`), `kv_cache`;
        - `training_bytes`: `full`, `one_branch` (the rest frozen) and `low_rank` (the router and low-rank deltas of
          both branches: the `"lora"` branches themselves, PEFT LoRA on `"ffn"` branches), each `{"trained": parameters,
          "one_gpu": bytes, "per_gpu": bytes}`;
        - `checkpoint_bytes`.

        Entries that do not apply to a dense model are None.

    Raises:
        FileNotFoundError: no configuration there.
        ValueError: another architecture, options that contradict it or each other, a size below 1.

    Example:

    ```python
    >>> from hf_metis_home import estimate_memory

    >>> found = estimate_memory("Qwen/Qwen2.5-VL-7B-Instruct", branch_kind="ffn", router_layer=1)
    >>> found["models"]["dense"]["parameters"]["stored"]
    8292166656
    ```
    """
    for name, value in {"gpus": gpus, "tokens": tokens, "batch": batch}.items():
        if value < 1:
            raise ValueError(f"`{name}` is {value}, but must be at least 1.")
    configs = _configs(model_name_or_path, {name: value for name, value in options.items() if value is not None})
    rank = list(configs.values())[-1].branch_rank  # the dense one comes first
    return {
        "model": str(model_name_or_path),
        "gpus": gpus,
        "tokens": tokens,
        "batch": batch,
        "low_rank": rank,
        "models": {name: _one_model(config, rank, gpus, tokens * batch) for name, config in configs.items()},
    }


def _configs(model_name_or_path: str | Path, options: dict) -> dict[str, PreTrainedConfig]:
    """The configurations of the dense model and its two-branch models, by `"dense"`, `"ffn"`, `"lora"`."""
    config = _read_config(model_name_or_path)
    if config.model_type == HYBRID:
        if options:
            raise ValueError(
                f"`model_name_or_path` is {str(model_name_or_path)!r}, a two-branch model. Drop {sorted(options)}."
            )
        if config.is_router_only:
            raise ValueError(
                f"`model_name_or_path` is {str(model_name_or_path)!r}, a router export. Pass the model that it is from."
            )
        return {"dense": dense_config(config), config.branch_kind: config}
    if kind := options.pop("branch_kind", None):
        return {"dense": config, kind: hybrid_config(config, branch_kind=kind, **options)}
    no_rank = {name: value for name, value in options.items() if name not in ("branch_rank", "branch_projections")}
    ffn = hybrid_config(config, branch_kind="ffn", **no_rank)
    return {"dense": config, "ffn": ffn, "lora": hybrid_config(config, branch_kind="lora", **options)}


def _read_config(model_name_or_path: str | Path) -> PreTrainedConfig:
    try:
        fields, _ = PreTrainedConfig.get_config_dict(str(model_name_or_path))
    except OSError as error:
        raise FileNotFoundError(
            f"`model_name_or_path` is {str(model_name_or_path)!r}, but no configuration can be read there ({error}). "
            "Pass a folder with a config.json, the path of a config.json, or a Hub repository id."
        ) from error
    classes = {DENSE: Qwen2_5_VLConfig, HYBRID: MetisHomeConfig}
    if (found := fields.get("model_type")) not in classes:
        raise ValueError(
            f"`model_name_or_path` is {str(model_name_or_path)!r}, of model_type {found!r}, not one of {list(classes)}."
        )
    return classes[found].from_dict(fields)


def _one_model(config: PreTrainedConfig, rank: int, gpus: int, positions: int) -> dict:
    shapes = expected_shapes(config)
    if config.tie_word_embeddings:
        shapes.pop("lm_head.weight")
    sizes = {name: prod(shape) for name, shape in shapes.items()}
    matrices = {name for name in sizes if any(f".{branch}." in name for branch in BRANCHES)}
    held = sum(sizes[name] for name in matrices)
    # A model saved with `only_branch` has one of the two.
    branch = max(sum(sizes[name] for name in matrices if f".{branch}." in name) for branch in BRANCHES)
    stored, router = sum(sizes.values()), sum(size for name, size in sizes.items() if ".router." in name)
    shared = stored - held - router

    def weights(parameters: int) -> int:
        return WEIGHT_BYTES * parameters + ROUTER_BYTES * router

    def training(trained: int, kept: int, kept_router: int) -> dict:
        needed = TRAINED_BYTES * trained + WEIGHT_BYTES * kept + ROUTER_BYTES * kept_router
        return {"trained": trained, "one_gpu": needed, "per_gpu": math.ceil(needed / gpus)}

    one_branch = low_rank = None
    if held:
        one_branch = training(branch, shared + held - branch, router)
        if config.branch_kind == "lora":
            low_rank = training(held + router, shared, 0)
        else:
            low_rank = training(sum(rank * sum(shapes[name]) for name in matrices) + router, shared + held, 0)
    cached = (".self_attn.k_proj.weight", ".self_attn.v_proj.weight")
    per_position = sum(shape[0] for name, shape in shapes.items() if name.endswith(cached))
    return {
        "parameters": {
            "stored": stored,
            "branch": branch or None,
            "router": router or None,
            "active": shared + branch + router,
        },
        "inference_bytes": {
            "weights": weights(stored - router),
            "one_branch": weights(shared + branch) if held else None,
            "kv_cache": WEIGHT_BYTES * per_position * positions,
        },
        "training_bytes": {"full": training(stored, 0, 0), "one_branch": one_branch, "low_rank": low_rank},
        "checkpoint_bytes": weights(stored - router),
    }
