"""`metis-home card`: the README.md of a folder, from the files in it and whatever else the caller knows."""

import json
import re
from pathlib import Path

from .._folders import write_whole
from ..data.dataset_folder import DATASET_TAGS, use_section
from ..hub_templates.card_merge import write_card
from ..hub_templates.cards import check_hub_id, export_card_parts
from ..hub_templates.model_card import facts_of, read_card, remembered, write_model_card
from ..reports.hub_results import write_eval_results
from .folder_kind import ADAPTER_CONFIG, KINDS, adapter_base, kind_of


LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


def update_card(model_name_or_path: str | Path, **given) -> dict:
    """
    Write the card of a folder, or update the existing one.

    What somebody wrote is kept: text outside our sections, sections that were edited, and metadata that is not ours.

    Args:
        model_name_or_path (`str` or `Path`):
            Folder of a two-branch model, of what `metis-home export` wrote, of a dense model or an adapter that a
            trainer saved together with a card, or of rows that `build-data` wrote.
        outcomes (`str` or `Path`, *optional*):
            Folder that `metis-home eval` wrote for this model. Its results go into the card, into `model-index` and,
            for benchmarks on the Hub, into `.eval_results/`.
        license (`str`, *optional*):
            License identifier of the Hub, e.g. `"apache-2.0"`, or `"other"`.
        model_id (`str`, *optional*):
            Hub id from which the example loads the model or the rows.
        title (`str`, *optional*):
            Heading; by default the name in `model_id`.
        base_model (`str`, *optional*):
            Hub id of the model that this one was made from, if no record in the folder names it. Also goes into the
            configuration of an adapter that names a path there.
        datasets, language (`list[str]`, *optional*):
            Metadata of the Hub.
        code_revision (`str`, *optional*):
            Commit of the repository to which the example pins the code.

    Returns:
        `dict`: `kind` (`"model"`, `"export"`, `"dense"`, `"adapter"`, `"vllm"` or `"dataset"`), `files` that were
        written, and `kept`, the names of sections that were kept because somebody edited them.

    Raises:
        FileNotFoundError: no such folder, or no outcomes there.
        ValueError: a folder of another kind, an argument that does not fit its card, outcomes of other weights, an
            invalid license or id, a card with unreadable metadata. Nothing is written then.

    Example:

    ```python
    >>> from hf_metis_home.publishing import update_card

    >>> update_card("runs/hybrid", outcomes="runs/outcomes", license="apache-2.0")["files"]
    ['README.md']
    ```
    """
    folder = Path(model_name_or_path)
    kind: str = kind_of(folder)
    if (folder / "export.json").is_file():
        kind = "export"
    given = {name: value for name, value in given.items() if value is not None}
    if unfit := sorted(given.keys() - set(GIVEN[kind])):
        raise ValueError(f"{unfit} cannot be on the card of {CARD_KINDS[kind]}. Drop them.")
    _check(given)
    files = ["README.md"]
    if kind == "model":
        kept, more = _update_model(folder, given)
        return {"kind": kind, "files": files + more, "kept": kept}

    path = folder / "README.md"
    if kind in ("export", "adapter"):
        files += _name_base(folder, given.get("base_model"))
    if kind == "export":
        record = json.loads((folder / "export.json").read_text(encoding="utf-8"))
        if record["format"] == "peft":
            record["base_model"] = adapter_base(folder) or record["base_model"]
        old = remembered(read_card(folder))
        old = {name: value for name, value in old.items() if name in GIVEN["export"] and not record.get(name)}
        metadata, sections = export_card_parts(**{**old, **record, **given})
        metadata |= {name: given[name] for name in ("language",) if name in given}
    elif not path.is_file():
        raise FileNotFoundError(
            f"`model_name_or_path` is {str(folder)!r}, {CARD_KINDS[kind]} without a README.md. Only the command that "
            "wrote the folder can write a new one (`metis-home build-data`, or the trainer's `create_model_card`)."
        )
    else:
        repo = given.pop("model_id", None)
        metadata, sections = dict(given), {}
        if kind == "dataset":
            metadata["tags"], sections = DATASET_TAGS, {"use": use_section(repo)} if repo else {}
    kept = write_card(path, metadata, sections, renew=given.keys() & {"license", "language", "base_model"})
    return {"kind": kind, "files": files, "kept": kept}


CARD_KINDS = KINDS | {"export": "an export"}
TRAINED = ("license", "base_model", "datasets", "language")
GIVEN = {
    "model": ("license", "model_id", "title", "base_model", "datasets", "language", "code_revision", "outcomes"),
    "export": ("license", "model_id", "base_model", "language"),
    "dense": TRAINED,
    "adapter": TRAINED,
    "vllm": TRAINED,
    "dataset": ("license", "model_id", "language"),
}


def _name_base(folder: Path, base_model: str | None) -> list[str]:
    """Adds the base model to an adapter's configuration if it has none. Returns what was written."""
    path = folder / ADAPTER_CONFIG
    if base_model is None or not path.is_file() or adapter_base(folder) is not None:
        return []
    config = json.loads(path.read_text(encoding="utf-8")) | {"base_model_name_or_path": base_model}
    write_whole(path, json.dumps(config, indent=2) + "\n")
    return [path.name]


def _check(given: dict) -> None:
    if (license := given.get("license")) is not None and not LICENSE.fullmatch(license):
        raise ValueError(
            f"`license` is {license!r}, but must be an identifier of the Hub such as 'apache-2.0', 'mit' or 'other' "
            "(https://huggingface.co/docs/hub/repositories-licenses)."
        )
    for name in given.keys() & {"model_id", "base_model"}:
        check_hub_id(given[name], name)
    for dataset in given.get("datasets", []):
        check_hub_id(dataset, "datasets")


def _update_model(folder: Path, given: dict) -> tuple[list[str], list[str]]:
    """Sections that were kept, and the files next to the card."""
    facts, files = facts_of(folder), {}
    if outcomes := given.pop("outcomes", None):
        from .card_results import card_results

        name = (given.get("model_id") or folder.resolve().name).rpartition("/")[2]
        results, files = card_results(outcomes, folder, facts["thinking_threshold"], name)
        given |= results
    kept = write_model_card(folder, facts, **given)
    return kept, write_eval_results(folder, files)
