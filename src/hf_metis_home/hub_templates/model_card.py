"""The card of a model's folder, from what lies in the folder and what a caller knows besides."""

import html
import re
from pathlib import Path

from .card_merge import read_metadata, write_card
from .cards import DEFAULT_TITLE, PLACEHOLDER, model_card_parts
from .training_history import history_of


CALIBRATION = {"target", "value", "threshold", "statement"}  # what the card tells of it
GIVEN_METADATA = ("license", "language", "datasets", "base_model")


def facts_of(folder: str | Path) -> dict:
    """
    What the configuration of a two-branch model and the records beside it say, as [`model_card_parts`] takes it.

    Example:

    ```python
    >>> from hf_metis_home.hub_templates.model_card import facts_of

    >>> facts_of("runs/hybrid")["thinking_threshold"]
    0.5
    ```
    """
    from ..modeling import MetisHomeConfig

    config = MetisHomeConfig.from_pretrained(folder)
    return config_facts(config) | {"stage": None} | history_of(folder).facts()


def config_facts(config) -> dict:
    """What a [`MetisHomeConfig`] says."""
    calibration = config.calibration if isinstance(config.calibration, dict) else {}
    return {
        "branch_kind": config.text_config.branch_kind,
        "router_layer": config.text_config.router_layer,
        "thinking_threshold": config.thinking_threshold,
        "calibration": calibration if CALIBRATION <= calibration.keys() else None,
    }


def write_model_card(folder: str | Path, facts: dict | None = None, **given) -> list[str]:
    """
    Write the README.md of a two-branch model's folder, or bring the one that is there up to date.

    Args:
        folder (`str` or `Path`):
            Holds the model's configuration, unless `facts` are given.
        facts (`dict`, *optional*):
            What is known of the model; by default what [`facts_of`] reads.
        given:
            What a caller says, as [`model_card_parts`] takes it; wins over facts and over the card. None: not said.

    Returns:
        `list[str]`: names of sections that somebody changed, which were left as they are.
    """
    path = Path(folder) / "README.md"
    given = {name: value for name, value in given.items() if value is not None}
    facts = facts_of(folder) if facts is None else facts
    old = path.read_text(encoding="utf-8-sig") if path.is_file() else ""
    known = {**remembered(old), **{name: value for name, value in facts.items() if value is not None}, **given}
    metadata, sections = model_card_parts(**{"stage": None, **known})
    if old and not facts.get("steps") and "stage" not in given:
        # The card may know more about how the model was made than the folder does.
        for name in ("made", *([] if "title" in given else ["about"])):
            sections.pop(name)
    return write_card(path, metadata, sections, renew=given.keys() & set(GIVEN_METADATA))


def refresh_routing(folder: str | Path) -> list[str]:
    """
    Renew what the card says about the threshold, where it has such a section.

    Returns:
        `list[str]`: `["routing"]` where somebody has changed that section, so that it was left as it is; else empty.
    """
    path = Path(folder) / "README.md"
    if not path.is_file() or "<!-- metis-home:routing " not in path.read_text(encoding="utf-8-sig"):
        return []
    _, sections = model_card_parts(**facts_of(folder))
    return write_card(path, {}, {"routing": sections["routing"]})


def remembered(card: str) -> dict:
    """What a card that we wrote says and nothing else may know any more."""
    if not card:
        return {}
    metadata = read_metadata(card)
    base = metadata.get("base_model")
    found = {"license": metadata.get("license"), "base_model": base[0] if isinstance(base, list) and base else base}
    patterns = {
        "model_id": r'^repo = "([^"\n]+)"$',
        "code_revision": r'^revision = "([^"\n]+)"$',
        "title": r"<!-- metis-home:about \w+ -->\s+# (.+)$",
    }
    for name, pattern in patterns.items():
        if match := re.search(pattern, card, re.M):
            found[name] = match[1]
    if "title" in found:
        found["title"] = html.unescape(re.sub(r"\\(.)", r"\1", found["title"]))
        if found["title"] in (DEFAULT_TITLE, found.get("model_id", "").rpartition("/")[2]):
            del found["title"]  # nobody's choice
    if found.get("model_id") == PLACEHOLDER:
        del found["model_id"]
    return {name: value for name, value in found.items() if isinstance(value, str)}
