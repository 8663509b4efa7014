"""
The README.md of a Hub repository.

Every sentence comes from what is known about the model; what is not known is left out rather than guessed.
"""

import re
from pathlib import Path
from typing import Literal


Stage = Literal["upcycled", "sft", "grpo"]
STAGES = ("upcycled", "sft", "grpo")


def render_model_card(
    *,
    stage: Stage | None = "upcycled",
    base_model: str | None = None,
    thinking_model: str | None = None,
    non_thinking_model: str | None = None,
    license: str | None = None,
    model_id: str | None = None,
    title: str | None = None,
    language: str | list[str] | None = None,
    datasets: str | list[str] | None = None,
    branch_kind: Literal["ffn", "lora"] = "ffn",
    router_layer: int | None = None,
    router_examples: int | None = None,
    thinking_threshold: float | None = None,
    results: dict[str, dict[str, float]] | None = None,
    notes: list[str] | None = None,
    versions: dict[str, str] | None = None,
) -> str:
    """
    Model card of a two-branch model, with Hub metadata on top.

    Args:
        stage (`str`, *optional*, defaults to `"upcycled"`):
            State of training. `"upcycled"`: as converted, branches equal to their sources and router untrained;
            `"sft"`: branches and router trained by [`MetisHomeSFTTrainer`]; `"grpo"`: parts of the model trained on
            rewards by [`MetisHomeGRPOTrainer`]; None: not known.
        base_model (`str`, *optional*):
            Dense checkpoint that gave the shared weights. Enters the metadata where it has the form of a Hub id
            (`name` or `owner/name`, not a path on this machine); a path is left out of the card altogether.
        thinking_model, non_thinking_model (`str`, *optional*):
            Checkpoints that gave one branch's weights, where that was not `base_model`. Treated like `base_model`.
        license (`str`, *optional*):
            License identifier of the Hub. Never assumed from the base model.
        model_id (`str`, *optional*):
            Hub id under which the model will be loaded in the example; a placeholder by default.
        title (`str`, *optional*):
            Heading; by default the last part of `model_id`, or a plain description.
        language, datasets (`str` or `list[str]`, *optional*):
            Metadata of the Hub.
        router_layer (`int`, *optional*):
            Number of decoder layers that the branches share, after which the router reads.
        branch_kind (`str`, *optional*, defaults to `"ffn"`):
            What a branch is made of, as in [`MetisHomeTextConfig`].
        router_examples (`int`, *optional*):
            Number of examples that gave an untrained router its weights.
        thinking_threshold (`float`, *optional*):
            The configuration's threshold.
        results (`dict[str, dict[str, float]]`, *optional*):
            One row per task: column name to value, e.g. `{"easy": {"accuracy": 0.9, "thinking_ratio": 0.0}}`.
        notes (`list[str]`, *optional*):
            Further sentences on how the model was made or what it is not good for.
        versions (`dict[str, str]`, *optional*):
            Package to version; by default those that are running.

    Returns:
        `str`: Markdown with a YAML header.

    Raises:
        ValueError: `stage` is not known.

    Example:

    ```python
    >>> from hf_metis_home.hub_templates import render_model_card

    >>> card = render_model_card(stage="upcycled", base_model="Qwen/Qwen2.5-VL-3B-Instruct")
    >>> card.splitlines()[1]
    'base_model: Qwen/Qwen2.5-VL-3B-Instruct'
    ```
    """
    from huggingface_hub import ModelCardData

    if stage not in (*STAGES, None):
        raise ValueError(f"`stage` is {stage!r}, but must be one of {list(STAGES)}.")
    sources = {"thinking": hub_id(thinking_model), "non_thinking": hub_id(non_thinking_model)}
    base_model, model_id = hub_id(base_model), hub_id(model_id)
    metadata = ModelCardData(
        base_model=base_model,
        datasets=datasets,
        language=language,
        library_name="transformers",
        license=license,
        pipeline_tag="image-text-to-text",
        tags=["metis-home", "hybrid-thinking", "mixture-of-experts", "qwen2_5_vl", "custom_code"],
    )
    if title is None:
        title = model_id.rpartition("/")[2] if model_id else "A hybrid-thinking vision-language model"
    body = render_template(
        "model_card.md.jinja",
        stage=stage,
        base_model=base_model,
        sources=sources,
        license=license,
        model_id=model_id or "OWNER/NAME",
        title=title,
        branch_kind=branch_kind,
        router_layer=router_layer,
        router_examples=router_examples,
        thinking_threshold=thinking_threshold,
        results=_table(results or {}),
        notes=notes or [],
        versions=_installed_versions(stage) if versions is None else versions,
    )
    return f"---\n{metadata.to_yaml()}\n---\n\n{body}"


def render_export_card(
    *, format: Literal["dense", "peft", "vllm", "router"], model_name_or_path: str, branch: str | None = None, **facts
) -> str:
    """
    Card of what `metis-home export` wrote.

    Args:
        format, model_name_or_path, branch (`str`):
            As [`~conversion.export_checkpoint`] takes them.
        facts:
            What else `export.json` holds: `base_model`, `rank`, `max_error`, `energy_kept`, `logit_error`,
            `branch_kind`; for `"vllm"` `command`, the words that serve the folder.

    Returns:
        `str`: Markdown with a YAML header.
    """
    from huggingface_hub import ModelCardData

    base_model = hub_id(facts.get("base_model") or model_name_or_path)
    metadata = ModelCardData(
        base_model=base_model,
        library_name="peft" if format == "peft" else "transformers",
        pipeline_tag=None if format == "router" else "image-text-to-text",
        tags=["metis-home", "qwen2_5_vl", *(["custom_code"] if format in ("router", "vllm") else [])],
    )
    body = render_template(
        "export_card.md.jinja",
        format=format,
        source=hub_id(model_name_or_path),
        base_model=base_model or "OWNER/NAME",
        branch=branch,
        **{name: facts.get(name) for name in ("rank", "energy_kept", "logit_error", "branch_kind", "command")},
    )
    return f"---\n{metadata.to_yaml()}\n---\n\n{body}"


def render_template(name: str, **values) -> str:
    """A template of this folder. Every value that it names has to be given."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, autoescape=False
    )
    environment.filters["text"] = plain_text
    return environment.from_string(Path(__file__).with_name(name).read_text(encoding="utf-8")).render(**values)


def hub_id(name: str | None) -> str | None:
    """`name` if it can be the id of a Hub repository, else None: a local path says nothing to a reader elsewhere."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if name is None or Path(name).exists():
        return None
    try:
        validate_repo_id(str(name))
    except HFValidationError:
        return None
    return str(name)


def plain_text(value: object) -> str:
    """`value` as one line of text that Markdown shows as it is, whatever characters it has."""
    line = " ".join(str(value).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~#$!])", r"\\\1", line)


def _table(results: dict[str, dict[str, float]]) -> dict:
    columns = list(dict.fromkeys(column for row in results.values() for column in row))
    rows = [(task, [_number(row.get(column)) for column in columns]) for task, row in results.items()]
    return {"columns": columns, "rows": rows}


def _number(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _installed_versions(stage: str) -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in ("hf-metis-home", "torch", "transformers", *(["trl"] if stage in ("sft", "grpo") else [])):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
