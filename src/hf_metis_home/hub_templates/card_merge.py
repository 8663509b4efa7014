"""
Updating a README.md that people and commands write together.

What a command writes is in sections between two comments, which the Hub's page does not show:

    <!-- metis-home:use 3f2a9c01 -->
    ...
    <!-- /metis-home:use -->

The eight digits are a checksum of the text in between. A section that still matches its checksum is replaced; one that
somebody has edited is kept, and so is everything outside. Metadata is added, and replaced only where it is ours.
"""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from .._folders import write_whole


RENEWED = ("library_name", "pipeline_tag")  # always replaced: they describe the files


def new_card(metadata: dict, sections: dict[str, str]) -> str:
    """A card with only our parts: metadata, and section name to Markdown, in order."""
    return _front_matter(metadata) + "\n" + "\n\n".join(_marked(*item) for item in sections.items() if item[1]) + "\n"


def merge_card(card: str, metadata: dict, sections: dict[str, str], renew: Iterable[str] = ()) -> tuple[str, list[str]]:
    """
    Update a card.

    Args:
        card (`str`):
            A README.md, written by us or by anybody else.
        metadata (`dict`):
            Hub metadata. The card keeps its tags and its results on other tasks; for the rest, the card's values win
            over these, except for `library_name`, `pipeline_tag` and `renew`.
        sections (`dict[str, str]`):
            Name to Markdown, in the order in which new ones are inserted. An empty text removes a section; sections
            that are not named are kept.
        renew (`Iterable[str]`, *optional*):
            Names of metadata to overwrite.

    Returns:
        `tuple[str, list[str]]`: the new card, and the names of sections that were kept because somebody edited them.

    Raises:
        ValueError: the card's metadata cannot be read and would be lost.

    Example:

    ```python
    >>> from hf_metis_home.hub_templates.card_merge import merge_card, new_card

    >>> card = new_card({"tags": ["a"]}, {"use": "## Use"}) + "\\nMy own words.\\n"
    >>> card, kept = merge_card(card, {"license": "mit"}, {"use": "## Use it"})
    >>> "My own words." in card, "## Use it" in card, kept
    (True, True, [])
    ```
    """
    end = "\r\n" if "\r\n" in card else "\n"
    card = card.replace("\r\n", "\n")
    head, old, body = _split(card)
    merged = _merge_metadata(old, metadata, set(renew) | set(RENEWED))
    head = head if merged == old else _front_matter(merged)
    kept, before = [], None
    if _has_title(body):
        sections = {name: re.sub(r"\A\s*# .*\n+", "", text) for name, text in sections.items()}
    for name, text in sections.items():
        place = _place(body, name)
        if place is None:
            if text:
                body = _insert(body, name, text, before)
        elif place["checksum"] != _checksum(place["text"]):
            if place["text"].strip() != text.strip():
                kept.append(name)
        else:
            rest = body[place.end() :]
            body = body[: place.start()] + (_marked(name, text) + rest if text else rest.lstrip("\n"))
        before = name if _place(body, name) else before
    return (head + body).replace("\n", end), kept


def write_card(path: Path, metadata: dict, sections: dict[str, str], renew: Iterable[str] = ()) -> list[str]:
    """
    Write a README.md, or update the existing one as [`merge_card`] does.

    Returns:
        `list[str]`: names of sections that were kept because somebody edited them.
    """
    if not path.is_file():
        write_whole(path, new_card(metadata, sections))
        return []
    with path.open(encoding="utf-8-sig", newline="") as file:
        card, kept = merge_card(file.read(), metadata, sections, renew)
    write_whole(path, card)
    return kept


def read_metadata(card: str) -> dict:
    """The metadata of a card; empty if it has none."""
    return _split(card.replace("\r\n", "\n"))[1]


def _split(card: str) -> tuple[str, dict, str]:
    """Front matter as it is written, its contents, and the rest."""
    import yaml
    from huggingface_hub import RepoCard

    if not card:
        return "", {}, ""
    try:
        parsed = RepoCard(card)
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise ValueError(f"README.md has unreadable metadata: {error}. Fix the lines between the `---`.") from error
    return card[: len(card) - len(parsed.text)], dict(vars(parsed.data)), parsed.text


def _front_matter(metadata: dict) -> str:
    from huggingface_hub.utils import yaml_dump

    return f"---\n{yaml_dump(metadata, sort_keys=False).strip()}\n---\n" if metadata else ""


def _merge_metadata(old: dict, new: dict, renew: set[str]) -> dict:
    merged = dict(old)
    for name, value in new.items():
        if name == "tags":
            theirs = old.get(name) or []
            merged[name] = list(dict.fromkeys([*([theirs] if isinstance(theirs, str) else theirs), *value]))
        elif name == "model-index":
            merged[name] = _merge_index(old.get(name), value)
        elif name in renew or old.get(name) in (None, "", []):
            merged[name] = value
    return merged


def _merge_index(old, new: list[dict]) -> list[dict]:
    """Our results replace those for the same task and dataset; others are kept."""
    first, *others = old if isinstance(old, list) and old and isinstance(old[0], dict) else [{}]
    ours = {_dataset_of(result) for result in new[0]["results"]}
    rest = [result for result in first.get("results") or [] if _dataset_of(result) not in ours]
    return [{**first, "name": first.get("name") or new[0]["name"], "results": [*rest, *new[0]["results"]]}, *others]


def _dataset_of(result: dict) -> tuple:
    dataset = result.get("dataset") or {}
    return tuple(str(dataset.get(name)) for name in ("type", "name", "config", "split"))


def _checksum(text: str) -> str:
    return hashlib.sha256(text.strip().encode()).hexdigest()[:8]


def _marked(name: str, text: str) -> str:
    text = text.strip("\n")
    return f"<!-- metis-home:{name} {_checksum(text)} -->\n\n{text}\n\n<!-- /metis-home:{name} -->"


def _place(body: str, name: str) -> re.Match | None:
    marks = rf"<!-- metis-home:{name}(?: (?P<checksum>\w+))? -->\n(?P<text>.*?)<!-- /metis-home:{name} -->"
    return re.search(marks, body, re.S)


def _has_title(body: str) -> bool:
    """Whether there is a first-level heading outside our sections."""
    for other in (r"<!-- metis-home:(\w+)[ \w]* -->\n.*?<!-- /metis-home:\1 -->", r"^(```|~~~).*?^\1"):
        body = re.sub(other, "", body, flags=re.M | re.S)
    return re.search(r"^# ", body, re.M) is not None


def _insert(body: str, name: str, text: str, before: str | None) -> str:
    """Adds a section that the card does not have yet, after the one that it follows."""
    if before is not None:
        end = _place(body, before).end()
        return f"{body[:end]}\n\n{_marked(name, text)}{body[end:]}"
    if "<!-- metis-home:" in body:
        return f"\n{_marked(name, text)}\n{body}"
    return f"{body.rstrip()}\n\n{_marked(name, text)}\n".lstrip("\n") if body.strip() else f"\n{_marked(name, text)}\n"
