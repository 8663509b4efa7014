"""`metis-home card`: the README.md of a folder, from what lies in it and what is said besides."""

import json
import re
from pathlib import Path

from .._folders import write_whole
from ..data.dataset_folder import DATASET_TAGS, use_section
from ..hub_templates.card_merge import write_card
from ..hub_templates.cards import export_card_parts
from ..hub_templates.model_card import facts_of, remembered, write_model_card
from .folder_kind import ADAPTER_CONFIG, KINDS, adapter_base, kind_of


LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


def update_card(
    model_name_or_path: str | Path,
    *,
    outcomes: str | Path | None = None,
    license: str | None = None,
    model_id: str | None = None,
    title: str | None = None,
    base_model: str | None = None,
    datasets: list[str] | None = None,
    language: list[str] | None = None,
    code_revision: str | None = None,
) -> dict:
    """
    Write the card of a folder, or bring the one that is there up to date.

    What somebody wrote stays: text outside our sections, sections that were changed, and metadata that is not ours.

    Args:
        model_name_or_path (`str` or `Path`):
            Folder of a two-branch model, of what `metis-home export` wrote, of a dense model or an adapter that a
            trainer saved with a card of its own, or of rows that `build-data` wrote.
        outcomes (`str` or `Path`, *optional*):
            Folder that `metis-home eval` wrote about this model: its results go onto the card, into `model-index` and,
            for benchmarks of the Hub, into `.eval_results/`.
        license (`str`, *optional*):
            Identifier of the Hub, e.g. `"apache-2.0"`, or `"other"`.
        model_id (`str`, *optional*):
            Hub id from which the example loads the model, or the rows.
        title (`str`, *optional*):
            Heading; by default the name in `model_id`.
        base_model (`str`, *optional*):
            Hub id of the model that this one was made from, where no record in the folder says it. An adapter whose
            configuration names a path gets it there too.
        datasets, language (`list[str]`, *optional*):
            Metadata of the Hub.
        code_revision (`str`, *optional*):
            Commit of the repository to which the example pins the code.

    Returns:
        `dict`: `kind` (`"model"`, `"export"`, `"dense"`, `"adapter"`, `"vllm"` or `"dataset"`), `files` that were
            written, and `kept`, the names of sections that were left because somebody changed them.

    Raises:
        FileNotFoundError: no such folder, or no outcomes there.
        ValueError: a folder of none of these kinds, outcomes of other weights, a license that cannot be one, a card
            whose metadata cannot be read. Nothing is written then.

    Example:

    ```python
    >>> from hf_metis_home.publishing import update_card

    >>> update_card("runs/hybrid", outcomes="runs/outcomes", license="apache-2.0")["files"]
    ['README.md']
    ```
    """
    folder = Path(model_name_or_path)
    kind = _card_kind(folder)
    given: dict = {
        "outcomes": outcomes, "license": license, "model_id": model_id, "title": title, "base_model": base_model,
        "datasets": datasets, "language": language, "code_revision": code_revision,
    }  # fmt: skip
    given = {name: value for name, value in given.items() if value is not None}
    if unfit := sorted(given.keys() - set(GIVEN[kind])):
        raise ValueError(f"{unfit} have no place on the card of {CARD_KINDS[kind]}. Drop them.")
    _check(given)
    if kind == "model":
        return _update_model(folder, given.pop("outcomes", None), given)
    path = folder / "README.md"
    files = ["README.md"]
    if kind == "export":
        record = json.loads((folder / "export.json").read_text(encoding="utf-8"))
        if record["format"] == "peft":
            files += _name_base(folder, given.get("base_model"))
            record["base_model"] = adapter_base(folder) or record["base_model"]
        old = remembered(path.read_text(encoding="utf-8-sig")) if path.is_file() else {}
        old = {name: value for name, value in old.items() if name in GIVEN["export"] and not record.get(name)}
        apart = {"language": given.pop("language")} if "language" in given else {}
        metadata, sections = export_card_parts(**{**old, **record, **given})
        metadata |= apart
        given |= apart
    else:
        if not path.is_file():
            raise FileNotFoundError(
                f"`model_name_or_path` is {str(folder)!r}, {CARD_KINDS[kind]} without a README.md. What made it "
                "(`metis-home build-data`, or the trainer's `create_model_card`) writes one; what it saw is known to "
                "nobody else."
            )
        repo = given.pop("model_id", None)
        metadata, sections = dict(given), {}
        if kind == "dataset":
            metadata["tags"], sections = DATASET_TAGS, {"use": use_section(repo)} if repo else {}
        elif kind == "adapter":
            files += _name_base(folder, given.get("base_model"))
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


def _card_kind(folder: Path) -> str:
    kind = kind_of(folder)
    return "export" if (folder / "export.json").is_file() else kind


def _name_base(folder: Path, base_model: str | None) -> list[str]:
    """Names the model that an adapter changes, where its configuration does not. Returns what was written."""
    path = folder / ADAPTER_CONFIG
    if base_model is None or adapter_base(folder) is not None:
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
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    ids = {name: given[name] for name in ("model_id", "base_model") if name in given}
    for name, value in [*ids.items(), *(("datasets", value) for value in given.get("datasets", []))]:
        try:
            validate_repo_id(value)
        except HFValidationError as error:
            raise ValueError(f"`{name}` is {value!r}, which cannot be an id on the Hub: {error}") from error


def _update_model(folder: Path, outcomes: str | Path | None, given: dict) -> dict:
    facts = facts_of(folder)
    files: dict[str, list[dict]] = {}
    if outcomes is not None:
        from .card_results import card_results

        name = (given.get("model_id") or folder.resolve().name).rpartition("/")[2]
        results, files = card_results(outcomes, folder, facts["thinking_threshold"], name)
        given |= results
    kept = write_model_card(folder, facts, **given)
    written = ["README.md"]
    if files:
        from ..reports.hub_results import write_eval_results

        written += write_eval_results(folder, files)
    return {"kind": "model", "files": written, "kept": kept}
