"""
The README.md of a Hub repository.

Every sentence comes from what is known about the model; what is unknown is left out rather than guessed. The blocks of
a template are the sections of the card, each of which can be updated on its own (`card_merge.py`).
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .._versions import versions
from .card_merge import new_card


Stage = Literal["upcycled", "sft", "grpo"]
STAGES = ("upcycled", "sft", "grpo")
PLACEHOLDER = "OWNER/NAME"  # where the repository's id is unknown
DEFAULT_TITLE = "A hybrid-thinking vision-language model"
TAGS = ["metis-home", "hybrid-thinking", "mixture-of-experts", "qwen2_5_vl", "custom_code"]


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """
    What a model card says.

    Args:
        stage (`str`, *optional*, defaults to `"upcycled"`):
            State of training. `"upcycled"`: as converted, branches equal to their sources and router untrained;
            `"sft"`: branches and router trained by [`MetisHomeSFTTrainer`]; `"grpo"`: parts of the model trained on
            rewards by [`MetisHomeGRPOTrainer`]; None: unknown.
        base_model (`str`, *optional*):
            Dense checkpoint that gave the shared weights. Goes into the metadata if it has the form of a Hub id (`name`
            or `owner/name`, and not a path on this machine); a path is left out of the card.
        thinking_model, non_thinking_model (`str`, *optional*):
            Checkpoints that gave one branch's weights, if not `base_model`. Treated like `base_model`.
        own_sources (`bool`, *optional*, defaults to `False`):
            Whether a branch has its own source, which may be a local one.
        license (`str`, *optional*):
            License identifier of the Hub. Never assumed from the base model.
        model_id (`str`, *optional*):
            Hub id from which the example loads the model; a placeholder by default.
        title (`str`, *optional*):
            Heading; by default the last part of `model_id`, or a plain description.
        language, datasets (`str` or `list[str]`, *optional*):
            Metadata of the Hub.
        branch_kind (`str`, *optional*, defaults to `"ffn"`):
            As in [`MetisHomeConfigMixin`].
        router_layer (`int`, *optional*):
            Number of shared decoder layers before the router.
        router_examples (`int`, *optional*):
            Number of examples that an untrained router was initialized from.
        thinking_threshold (`float`, *optional*):
            The configuration's threshold.
        calibration (`dict`, *optional*):
            The record of `metis-home calibrate` in the configuration.
        code_revision (`str`, *optional*):
            Commit of the repository from which the example loads the code.
        steps (`list[dict]`, *optional*):
            How the model was made, as [`~hub_templates.training_history.describe`] returns it.
        results (`dict[str, dict[str, float | str]]`, *optional*):
            One row per task: column name to value, e.g. `{"easy": {"accuracy": 0.9, "thinking_ratio": 0.0}}`. None:
            unknown; an empty dict: there are none, and a section with older ones is removed.
        measured (`list[str]`, *optional*):
            Sentences about the results.
        index (`list[dict]`, *optional*):
            The results as `model-index`, see [`~reports.hub_results.model_index`].
        tags (`list[str]`, *optional*):
            More tags for the Hub.
        notes (`list[str]`, *optional*):
            Further sentences on how the model was made or what it is not good for.
        versions (`dict[str, str]`, *optional*):
            Package to version; by default the installed ones.
    """

    stage: Stage | None = "upcycled"
    base_model: str | None = None
    thinking_model: str | None = None
    non_thinking_model: str | None = None
    own_sources: bool = False
    license: str | None = None
    model_id: str | None = None
    title: str | None = None
    language: str | list[str] | None = None
    datasets: str | list[str] | None = None
    branch_kind: Literal["ffn", "lora"] = "ffn"
    router_layer: int | None = None
    router_examples: int | None = None
    thinking_threshold: float | None = None
    calibration: dict | None = None
    code_revision: str | None = None
    steps: list[dict] | None = None
    results: dict[str, dict[str, float | str]] | None = None
    measured: list[str] | None = None
    index: list[dict] | None = None
    tags: list[str] | None = None
    notes: list[str] | None = None
    versions: dict[str, str] | None = None


def render_model_card(**facts) -> str:
    """
    Model card of a two-branch model, with Hub metadata on top.

    Args:
        facts:
            The fields of [`~hub_templates.cards.ModelFacts`].

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


def model_card_parts(**facts) -> tuple[dict, dict[str, str]]:
    """
    Metadata and sections of a model card, as [`~hub_templates.card_merge.merge_card`] takes them.

    Args:
        facts:
            The fields of [`~hub_templates.cards.ModelFacts`].

    Returns:
        `tuple[dict, dict[str, str]]`: metadata of the Hub, and section name to Markdown.

    Raises:
        ValueError: `stage` is not known.
    """
    known = ModelFacts(**facts)
    if known.stage not in (*STAGES, None):
        raise ValueError(f"`stage` is {known.stage!r}, but must be one of {list(STAGES)}.")
    sources = {"thinking": hub_id(known.thinking_model), "non_thinking": hub_id(known.non_thinking_model)}
    base_model, model_id = hub_id(known.base_model), hub_id(known.model_id)
    bases = list(dict.fromkeys(name for name in (base_model, *sources.values()) if name))
    metadata = {
        "base_model": bases[0] if len(bases) == 1 else bases,
        "datasets": known.datasets,
        "language": known.language,
        "library_name": "transformers",
        "license": known.license,
        "pipeline_tag": "image-text-to-text",
        "tags": list(dict.fromkeys([*TAGS, *(known.tags or [])])),
        "model-index": known.index,
    }
    values = vars(known) | {
        "base_model": base_model,
        "sources": sources,
        "model_id": model_id or PLACEHOLDER,
        "title": known.title or (model_id or DEFAULT_TITLE).rpartition("/")[2],
        "versions": versions() if known.versions is None else known.versions,
    }
    sections = render_blocks("model_card.md.jinja", **values)
    for section, fact in (("training", known.steps), ("results", known.results), ("notes", known.notes)):
        if fact is None:
            del sections[section]
    return {name: value for name, value in metadata.items() if value not in (None, [])}, sections


def export_card_parts(
    *,
    format: Literal["dense", "peft", "vllm", "router"],
    model_name_or_path: str,
    branch: str | None = None,
    license: str | None = None,
    model_id: str | None = None,
    **facts,
) -> tuple[dict, dict[str, str]]:
    """
    Metadata and sections of an export's card.

    Args:
        format, model_name_or_path, branch (`str`):
            As [`~conversion.export_checkpoint`] takes them.
        license, model_id (`str`, *optional*):
            As in [`~hub_templates.cards.ModelFacts`].
        facts:
            What else `export.json` contains: `base_model`, `rank`, `max_error`, `energy_kept`, `logit_error`,
            `branch_kind`; for `"vllm"` `command`, the command that serves the folder.
    """
    local, branch_kind = facts.get("local_sources") or (), facts.get("branch_kind")
    source, base_model = (
        None if name in local else hub_id(name)
        for name in (model_name_or_path, facts.get("base_model") or model_name_or_path)
    )
    tags = {"peft": ["lora"], "vllm": ["vllm"]}.get(format, [])
    if format == "router" or (format == "vllm" and branch_kind == "ffn"):
        tags.append("custom_code")
    metadata = {
        "base_model": base_model,
        "base_model_relation": "adapter" if format == "peft" and base_model else None,
        "library_name": "peft" if format == "peft" else "transformers",
        "license": license,
        "pipeline_tag": None if format == "router" else "image-text-to-text",
        "tags": ["metis-home", "qwen2_5_vl", *tags],
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


def render_blocks(name: str, **values) -> dict[str, str]:
    """The blocks of a template in this folder, in order. Every value that they use must be given."""
    template = load_template(name)
    return {block: "".join(render(template.new_context(values))).strip() for block, render in template.blocks.items()}


def load_template(name: str):
    """A template in this folder. Its filter `text` makes any value one line of plain Markdown."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, autoescape=False
    )
    environment.filters["text"] = plain_text
    return environment.from_string(Path(__file__).with_name(name).read_text(encoding="utf-8"))


def check_hub_id(name: str, argument: str) -> None:
    """An error if `name` cannot be the id of a Hub repository."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ValueError(f"`{argument}` is {name!r}, which cannot be an id on the Hub: {error}") from error


def hub_id(name: str | None) -> str | None:
    """`name` if it can be the id of a Hub repository, else None: a local path tells a reader elsewhere nothing."""
    if name is None or Path(name).exists():
        return None
    try:
        check_hub_id(str(name), "name")
    except ValueError:
        return None
    return str(name)


def plain_text(value: object) -> str:
    """`value` as one line of text that Markdown shows literally."""
    line = " ".join(str(value).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~#$!])", r"\\\1", line)
