"""
A README.md that people and commands write together.

What a command writes stands in sections between two comments, which the Hub's page does not show:

    <!-- metis-home:use 3f2a9c01 -->
    ...
    <!-- /metis-home:use -->

The eight digits are a checksum of what stands between. A section that still has its checksum is written anew; one that
somebody has changed is left as it is, and so is everything outside. Metadata is added to, and renewed where it is ours.
"""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from .._folders import write_whole


RENEWED = ("library_name", "pipeline_tag")  # metadata that says what the files are, whoever wrote it
FRONT_MATTER = re.compile(r"\A\s*---\n(.*?)\n---[ \t]*(?:\n|\Z)", re.S)


def new_card(metadata: dict, sections: dict[str, str]) -> str:
    """A card with nothing in it but ours: metadata, and name to Markdown of each section, in order."""
    return _front_matter(metadata) + "\n" + "\n\n".join(_marked(*item) for item in sections.items() if item[1]) + "\n"


def merge_card(card: str, metadata: dict, sections: dict[str, str], renew: Iterable[str] = ()) -> tuple[str, list[str]]:
    """
    Bring a card up to date.

    Args:
        card (`str`):
            A README.md, ours or anybody's.
        metadata (`dict`):
            Hub metadata. Tags and results of other tasks that the card has stay; of the rest, what the card has wins
            over this, except for `library_name`, `pipeline_tag` and `renew`.
        sections (`dict[str, str]`):
            Name to Markdown, in the order in which new ones are put in. An empty text takes a section away; a section
            that is not named stays.
        renew (`Iterable[str]`, *optional*):
            Names of metadata that are written over.

    Returns:
        `tuple[str, list[str]]`: the new card, and the names of sections that differ from ours because somebody changed
        them.

    Raises:
        ValueError: the metadata of the card cannot be read, so that it would be lost.

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
    Write a README.md, or bring the one that is there up to date, as [`merge_card`] does.

    Returns:
        `list[str]`: names of sections that were left because somebody changed them.
    """
    kept: list[str] = []
    if path.is_file():
        with path.open(encoding="utf-8-sig", newline="") as file:
            card, kept = merge_card(file.read(), metadata, sections, renew)
    else:
        card = new_card(metadata, sections)
    write_whole(path, card)
    return kept


def read_metadata(card: str) -> dict:
    """The metadata of a card; empty where it has none."""
    return _split(card.replace("\r\n", "\n"))[1]


def _split(card: str) -> tuple[str, dict, str]:
    """Front matter as it stands, what it says, and the rest."""
    import yaml

    match = FRONT_MATTER.search(card)
    if match is None:
        return "", {}, card
    try:
        metadata = yaml.safe_load(match[1]) or {}
    except yaml.YAMLError as error:
        raise ValueError(
            f"README.md has metadata that is no YAML ({error}). Mend what stands between the `---`."
        ) from error
    if not isinstance(metadata, dict):
        raise ValueError(
            f"README.md has metadata that is a {type(metadata).__name__}, not `name: value` lines. Mend what stands "
            "between the `---`."
        )
    return match[0], metadata, card[match.end() :]


def _front_matter(metadata: dict) -> str:
    from huggingface_hub.utils import yaml_dump

    return f"---\n{yaml_dump(metadata, sort_keys=False).strip()}\n---\n" if metadata else ""


def _merge_metadata(old: dict, new: dict, renew: set[str]) -> dict:
    merged = dict(old)
    for name, value in new.items():
        if value is None:
            continue
        if name == "tags":
            merged[name] = list(dict.fromkeys([*_as_list(old.get(name)), *value]))
        elif name == "model-index":
            merged[name] = _merge_index(old.get(name), value)
        elif name in renew or old.get(name) in (None, "", []):
            merged[name] = value
    return merged


def _merge_index(old, new: list[dict]) -> list[dict]:
    """Our results in the place of those for the same task and dataset; others stay."""
    first, *others = old if isinstance(old, list) and old and isinstance(old[0], dict) else [{}]
    ours = {_dataset_of(result) for result in new[0]["results"]}
    rest = [result for result in first.get("results") or [] if _dataset_of(result) not in ours]
    return [{**first, "name": first.get("name") or new[0]["name"], "results": [*rest, *new[0]["results"]]}, *others]


def _dataset_of(result: dict) -> tuple:
    dataset = result.get("dataset") or {}
    return tuple(str(dataset.get(name)) for name in ("type", "name", "config", "split"))


def _as_list(value) -> list:
    return value if isinstance(value, list) else [] if value in (None, "") else [value]


def _checksum(text: str) -> str:
    return hashlib.sha256(text.strip().encode()).hexdigest()[:8]


def _marked(name: str, text: str) -> str:
    text = text.strip("\n")
    return f"<!-- metis-home:{name} {_checksum(text)} -->\n\n{text}\n\n<!-- /metis-home:{name} -->"


def _place(body: str, name: str) -> re.Match | None:
    marks = rf"<!-- metis-home:{name}(?: (?P<checksum>\w+))? -->\n(?P<text>.*?)<!-- /metis-home:{name} -->"
    return re.search(marks, body, re.S)


def _has_title(body: str) -> bool:
    """Whether there is a heading of the first level that is not ours."""
    for other in (r"<!-- metis-home:(\w+)[ \w]* -->\n.*?<!-- /metis-home:\1 -->", r"^(```|~~~).*?^\1"):
        body = re.sub(other, "", body, flags=re.M | re.S)
    return re.search(r"^# ", body, re.M) is not None


def _insert(body: str, name: str, text: str, before: str | None) -> str:
    """A section that the card does not have yet, behind the one that it follows."""
    if before is not None:
        end = _place(body, before).end()
        return f"{body[:end]}\n\n{_marked(name, text)}{body[end:]}"
    if "<!-- metis-home:" in body:
        return f"\n{_marked(name, text)}\n{body}"
    return f"{body.rstrip()}\n\n{_marked(name, text)}\n".lstrip("\n") if body.strip() else f"\n{_marked(name, text)}\n"
