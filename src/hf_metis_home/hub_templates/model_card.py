"""The card of a two-branch model, from the files in its folder and whatever else the caller knows."""

import html
import re
from pathlib import Path

from .card_merge import read_metadata, write_card
from .cards import DEFAULT_TITLE, PLACEHOLDER, model_card_parts
from .training_history import history_of


CALIBRATION = {"target", "value", "threshold", "statement"}  # what the card needs of it
GIVEN_METADATA = ("license", "language", "datasets", "base_model")


def facts_of(folder: str | Path) -> dict:
    """
    What the configuration of a two-branch model and the records next to it say, as fields of
    [`~hub_templates.cards.ModelFacts`].

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
        "branch_kind": config.branch_kind,
        "router_layer": config.router_layer,
        "thinking_threshold": config.thinking_threshold,
        "calibration": calibration if CALIBRATION <= calibration.keys() else None,
    }


def write_model_card(folder: str | Path, facts: dict | None = None, **given) -> list[str]:
    """
    Write the README.md of a two-branch model, or update the existing one.

    Args:
        folder (`str` or `Path`):
            Contains the model's configuration, unless `facts` are given.
        facts (`dict`, *optional*):
            What is known about the model; by default what [`facts_of`] reads.
        given:
            What the caller says: fields of [`~hub_templates.cards.ModelFacts`], which win over `facts` and over the
            card. None: not given.

    Returns:
        `list[str]`: names of sections that were kept because somebody edited them.
    """
    given = {name: value for name, value in given.items() if value is not None}
    facts = facts_of(folder) if facts is None else facts
    old = read_card(folder)
    known = {**remembered(old), **{name: value for name, value in facts.items() if value is not None}, **given}
    metadata, sections = model_card_parts(**{"stage": None, **known})
    if old and not facts.get("steps") and "stage" not in given:
        # The card may know more about how the model was made than the folder does.
        for name in ("made", *([] if "title" in given else ["about"])):
            sections.pop(name)
    renew = given.keys() & set(GIVEN_METADATA)
    return write_card(Path(folder) / "README.md", metadata, sections, renew=renew)


def refresh_routing(folder: str | Path) -> list[str]:
    """
    Update what the card says about the threshold, if it has such a section.

    Returns:
        `list[str]`: `["routing"]` if the section was kept because somebody edited it; else empty.
    """
    if "<!-- metis-home:routing " not in read_card(folder):
        return []
    _, sections = model_card_parts(**facts_of(folder))
    return write_card(Path(folder) / "README.md", {}, {"routing": sections["routing"]})


def read_card(folder: str | Path) -> str:
    """The README.md of a folder; empty if there is none."""
    path = Path(folder) / "README.md"
    return path.read_text(encoding="utf-8-sig") if path.is_file() else ""


def remembered(card: str) -> dict:
    """Facts that may only be left in the card that we wrote."""
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
            del found["title"]  # nobody chose it
    return {name: value for name, value in found.items() if isinstance(value, str) and value != PLACEHOLDER}
