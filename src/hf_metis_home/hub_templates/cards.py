"""
The README.md of a Hub repository.

Every sentence comes from what is known about the model; what is not known is left out rather than guessed. The parts
of a card are the blocks of its template, each a section that can be renewed by itself (`marked.py`).
"""

import re
from pathlib import Path
from typing import Literal

from .card_merge import new_card


Stage = Literal["upcycled", "sft", "grpo"]
STAGES = ("upcycled", "sft", "grpo")
PLACEHOLDER = "OWNER/NAME"  # where the id of the repository is not known
DEFAULT_TITLE = "A hybrid-thinking vision-language model"
TAGS = ["metis-home", "hybrid-thinking", "mixture-of-experts", "qwen2_5_vl", "custom_code"]


def render_model_card(**facts) -> str:
    """
    Model card of a two-branch model, with Hub metadata on top, as nobody has changed it yet.

    Args:
        facts:
            As [`model_card_parts`] takes them.

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
    return new_card(*model_card_parts(**facts))


def model_card_parts(
    *,
    stage: Stage | None = "upcycled",
    base_model: str | None = None,
    thinking_model: str | None = None,
    non_thinking_model: str | None = None,
    own_sources: bool = False,
    license: str | None = None,
    model_id: str | None = None,
    title: str | None = None,
    language: str | list[str] | None = None,
    datasets: str | list[str] | None = None,
    branch_kind: Literal["ffn", "lora"] = "ffn",
    router_layer: int | None = None,
    router_examples: int | None = None,
    thinking_threshold: float | None = None,
    calibration: dict | None = None,
    code_revision: str | None = None,
    steps: list[dict] | None = None,
    results: dict[str, dict[str, float | str]] | None = None,
    measured: list[str] | None = None,
    index: list[dict] | None = None,
    tags: list[str] | None = None,
    notes: list[str] | None = None,
    versions: dict[str, str] | None = None,
) -> tuple[dict, dict[str, str]]:
    """
    What a model card holds, in the form that [`~hub_templates.card_merge.merge_card`] takes.

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
        own_sources (`bool`, *optional*, defaults to `False`):
            Whether a branch has a source of its own, which may be a local one.
        license (`str`, *optional*):
            License identifier of the Hub. Never assumed from the base model.
        model_id (`str`, *optional*):
            Hub id under which the model will be loaded in the example; a placeholder by default.
        title (`str`, *optional*):
            Heading; by default the last part of `model_id`, or a plain description.
        language, datasets (`str` or `list[str]`, *optional*):
            Metadata of the Hub.
        branch_kind (`str`, *optional*, defaults to `"ffn"`):
            What a branch is made of, as in [`MetisHomeTextConfig`].
        router_layer (`int`, *optional*):
            Number of decoder layers that the branches share, after which the router reads.
        router_examples (`int`, *optional*):
            Number of examples that gave an untrained router its weights.
        thinking_threshold (`float`, *optional*):
            The configuration's threshold.
        calibration (`dict`, *optional*):
            The configuration's record of `metis-home calibrate`.
        code_revision (`str`, *optional*):
            Commit of the repository whose code the example shall load.
        steps (`list[dict]`, *optional*):
            How the model was made, as [`~hub_templates.training_history.describe`] tells it.
        results (`dict[str, dict[str, float | str]]`, *optional*):
            One row per task: column name to value, e.g. `{"easy": {"accuracy": 0.9, "thinking_ratio": 0.0}}`. None:
            not known; an empty one: there are none, and a section with older ones is taken away.
        measured (`list[str]`, *optional*):
            Sentences on the results.
        index (`list[dict]`, *optional*):
            The results as `model-index`, see [`~reports.hub_results.model_index`].
        tags (`list[str]`, *optional*):
            Tags of the Hub beside ours.
        notes (`list[str]`, *optional*):
            Further sentences on how the model was made or what it is not good for.
        versions (`dict[str, str]`, *optional*):
            Package to version; by default those that are running.

    Returns:
        `tuple[dict, dict[str, str]]`: metadata of the Hub, and name to Markdown of each section.

    Raises:
        ValueError: `stage` is not known.
    """
    if stage not in (*STAGES, None):
        raise ValueError(f"`stage` is {stage!r}, but must be one of {list(STAGES)}.")
    sources = {"thinking": hub_id(thinking_model), "non_thinking": hub_id(non_thinking_model)}
    base_model, model_id = hub_id(base_model), hub_id(model_id)
    bases = list(dict.fromkeys(name for name in (base_model, *sources.values()) if name))
    metadata = {
        "base_model": bases[0] if len(bases) == 1 else bases,
        "datasets": datasets,
        "language": language,
        "library_name": "transformers",
        "license": license,
        "pipeline_tag": "image-text-to-text",
        "tags": list(dict.fromkeys([*TAGS, *(tags or [])])),
        "model-index": index,
    }
    if title is None:
        title = model_id.rpartition("/")[2] if model_id else DEFAULT_TITLE
    sections = render_blocks(
        "model_card.md.jinja",
        stage=stage,
        base_model=base_model,
        sources=sources,
        own_sources=own_sources or any(sources.values()),
        license=license,
        model_id=model_id or PLACEHOLDER,
        title=title,
        branch_kind=branch_kind,
        router_layer=router_layer,
        router_examples=router_examples,
        thinking_threshold=thinking_threshold,
        calibration=calibration if (calibration or {}).get("threshold") == thinking_threshold else None,
        code_revision=code_revision,
        steps=steps or [],
        results=_table(results or {}),
        measured=measured or [],
        notes=notes or [],
        versions=_installed_versions(stage) if versions is None else versions,
    )
    unknown = {"training": steps, "results": results, "notes": notes}
    sections = {name: text for name, text in sections.items() if name not in unknown or unknown[name] is not None}
    return {name: value for name, value in metadata.items() if value not in (None, [])}, sections


def render_export_card(
    *,
    format: Literal["dense", "peft", "vllm", "router"],
    model_name_or_path: str,
    branch: str | None = None,
    license: str | None = None,
    model_id: str | None = None,
    **facts,
) -> str:
    """
    Card of what `metis-home export` wrote, as nobody has changed it yet.

    Args:
        format, model_name_or_path, branch (`str`):
            As [`~conversion.export_checkpoint`] takes them.
        license, model_id (`str`, *optional*):
            As in [`model_card_parts`].
        facts:
            What else `export.json` holds: `base_model`, `rank`, `max_error`, `energy_kept`, `logit_error`,
            `branch_kind`; for `"vllm"` `command`, the words that serve the folder.

    Returns:
        `str`: Markdown with a YAML header.
    """
    return new_card(
        *export_card_parts(
            format=format,
            model_name_or_path=model_name_or_path,
            branch=branch,
            license=license,
            model_id=model_id,
            **facts,
        )
    )


def export_card_parts(
    *,
    format: str,
    model_name_or_path: str,
    branch: str | None = None,
    license: str | None = None,
    model_id: str | None = None,
    **facts,
) -> tuple[dict, dict[str, str]]:
    """Metadata and sections of the card that [`render_export_card`] renders."""
    local = facts.get("local_sources") or ()
    source, base_model = (
        None if name in local else hub_id(name)
        for name in (model_name_or_path, facts.get("base_model") or model_name_or_path)
    )
    metadata = {
        "base_model": base_model,
        "base_model_relation": "adapter" if format == "peft" and base_model else None,
        "library_name": "peft" if format == "peft" else "transformers",
        "license": license,
        "pipeline_tag": None if format == "router" else "image-text-to-text",
        "tags": ["metis-home", "qwen2_5_vl", *_format_tags(format, facts.get("branch_kind"))],
    }
    sections = render_blocks(
        "export_card.md.jinja",
        format=format,
        source=source,
        base_model=base_model or "BASE_MODEL",
        model_id=hub_id(model_id) or PLACEHOLDER,
        branch=branch,
        license=license,
        **{name: facts.get(name) for name in ("rank", "energy_kept", "logit_error", "branch_kind", "command")},
    )
    return {name: value for name, value in metadata.items() if value is not None}, sections


def _format_tags(format: str, branch_kind: str | None) -> list[str]:
    custom = format == "router" or (format == "vllm" and branch_kind == "ffn")
    return ["lora"] * (format == "peft") + ["vllm"] * (format == "vllm") + ["custom_code"] * custom


def render_blocks(name: str, **values) -> dict[str, str]:
    """The blocks of a template of this folder, in their order. Every value that they name has to be given."""
    template = _template(name)
    return {block: "".join(render(template.new_context(values))).strip() for block, render in template.blocks.items()}


def render_template(name: str, **values) -> str:
    """The whole of a template of this folder."""
    return _template(name).render(**values)


def _template(name: str):
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, autoescape=False
    )
    environment.filters["text"] = plain_text
    return environment.from_string(Path(__file__).with_name(name).read_text(encoding="utf-8"))


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


def _table(results: dict[str, dict[str, float | str]]) -> dict:
    columns = list(dict.fromkeys(column for row in results.values() for column in row))
    rows = [(task, [_number(row.get(column)) for column in columns]) for task, row in results.items()]
    return {"columns": columns, "rows": rows}


def _number(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _installed_versions(stage: str | None) -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in ("hf-metis-home", "torch", "transformers", *(["trl"] if stage in ("sft", "grpo") else [])):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
