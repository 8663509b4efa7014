"""What must be true of a folder before it is published."""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ..conversion import validate_checkpoint
from ..conversion.fingerprint import weights_fingerprint
from ..conversion.validate import Check, Planned, run_checks
from ..conversion.validate_files import check_card, foreign_code
from ..hub_templates.card_merge import read_metadata
from ..hub_templates.cards import PLACEHOLDER
from ..hub_templates.model_card import read_card
from .file_checks import FILE_CHECKS, load_isolated
from .folder_kind import Kind, kind_of


def check_folder(folder: Path, repo_id: str, trust_remote_code: bool = False) -> list[Check]:
    """
    Check a folder. A two-branch model gets all checks of `metis-home validate` and those for publishing; other folders
    need complete files and a card.

    Args:
        folder (`Path`):
            What this library wrote, see [`~publishing.folder_kind.kind_of`].
        repo_id (`str`):
            Where it will go; used in the suggested fixes.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether to run code in the folder that is not this package's version, to see that it loads.

    Returns:
        `list[Check]`: in a fixed order. `ok` is None for checks that were not run.
    """
    kind = kind_of(folder)
    checks = validate_checkpoint(folder) if kind == "model" else []
    return run_checks(_planned(folder, kind, repo_id, trust_remote_code), checks)


def _planned(folder: Path, kind: Kind, repo_id: str, trust_remote_code: bool) -> Iterator[Planned]:
    if kind != "model":
        for name, check in FILE_CHECKS[kind].items():
            yield name, (), partial(check, folder)
        library = {"dataset": None, "adapter": "peft"}.get(kind, "transformers")
        yield "card", (), partial(check_card, folder, library)
    yield "license", ("card",), partial(check_license, folder)
    yield "example", ("card",), partial(check_example, folder, repo_id)
    if kind == "model":
        yield "results", ("configuration", "files"), partial(check_results, folder)
        load = partial(check_isolated_load, folder, trust_remote_code)
        yield "isolated load", ("tensors", "code", "processor"), load


def check_license(folder: Path) -> str:
    metadata = read_metadata(read_card(folder))
    license, link = metadata.get("license"), metadata.get("license_link")
    if not license:
        raise ValueError(
            "README.md states no license, so nobody may use the files. Find out what the licenses of base model and "
            f"data allow, then run `metis-home card --model_name_or_path {folder} --license ...`."
        )
    if license == "other" and not metadata.get("license_name"):
        raise ValueError(
            "README.md has `license: other`, for which the Hub also wants `license_name` and `license_link`. Add them "
            "to its metadata, e.g. `license_name: qwen-research` and `license_link: LICENSE`, and put the text into "
            "LICENSE."
        )
    if link == "LICENSE" and not (folder / link).is_file():
        raise ValueError("README.md has `license_link: LICENSE`, but there is no such file. Add the license text.")
    return str(metadata.get("license_name") or license)


def check_example(folder: Path, repo_id: str) -> str:
    if PLACEHOLDER in read_card(folder):
        raise ValueError(
            f"The example in README.md loads the placeholder {PLACEHOLDER!r}. Insert the name with `metis-home card "
            f"--model_name_or_path {folder} --model_id {repo_id}`."
        )
    return "the card names a repository"


def check_results(folder: Path) -> str:
    noted = re.search(r"weights ([0-9a-f]{12})\.", read_card(folder))
    if noted is None:
        return "none on the card"
    if not weights_fingerprint(folder).startswith(noted[1]):
        raise ValueError(
            "README.md has results of other weights. Evaluate this model and run `metis-home card --model_name_or_path "
            f"{folder} --outcomes ...`, or remove the results."
        )
    return "measured with these weights"


def check_isolated_load(folder: Path, trust_remote_code: bool) -> str:
    if not trust_remote_code and (foreign := foreign_code(folder)):
        raise ValueError(
            f"{', '.join(foreign)}: not this package's version, so it is not run without your consent. Read it and "
            "pass --trust_remote_code, or load the model with this package and save it again."
        )
    return load_isolated(folder)
