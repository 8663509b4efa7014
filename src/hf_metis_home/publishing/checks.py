"""What must hold of a folder before it is published, beyond that it is whole."""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from ..conversion import validate_checkpoint
from ..conversion.fingerprint import weights_fingerprint
from ..conversion.validate import Check
from ..conversion.validate_files import foreign_code
from ..hub_templates.card_merge import read_metadata
from ..hub_templates.cards import PLACEHOLDER
from .folder_kind import Kind, kind_of


LOADER = Path(__file__).with_name("load_isolated.py")
LONGEST = 1200  # characters of somebody else's error


def check_folder(folder: Path, repo_id: str, trust_remote_code: bool = False) -> list[Check]:
    """
    What has to hold: for a two-branch model all checks of `metis-home validate` and those of a publisher, for other
    folders that they are whole and have a card.

    Args:
        folder (`Path`):
            What this library wrote, see [`~publishing.folder_kind.kind_of`].
        repo_id (`str`):
            Where it shall go, for remedies.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether code in the folder that is not this package's may run to see that it loads.

    Returns:
        `list[Check]`: in a fixed order; `ok` is None where a check was not run.
    """
    kind = kind_of(folder)
    if kind != "model":
        return _check_other(folder, kind, repo_id)
    checks = validate_checkpoint(folder)
    found = {check.name: check.ok for check in checks}
    checks += [_run("license", check_license, folder, repo_id) if found["card"] else _not_run("license", "card")]
    checks += [_run("example", check_example, folder, repo_id) if found["card"] else _not_run("example", "card")]
    needed = next((name for name in ("configuration", "files") if not found[name]), None)
    checks += [_not_run("results", needed) if needed else _run("results", check_results, folder, repo_id)]
    needed = next((name for name in ("tensors", "code", "processor") if not found[name]), None)
    checks += [_not_run("isolated load", needed) if needed else _isolated(folder, trust_remote_code)]
    return checks


def _check_other(folder: Path, kind: Kind, repo_id: str) -> list[Check]:
    from .other_checks import OTHER_CHECKS, check_metadata

    checks = [_run(name, check, folder) for name, check in OTHER_CHECKS[kind].items()]
    card = _run("card", check_metadata, folder, kind)
    needing_it = {"license": check_license, "example": check_example}
    more = [_run(*item, folder, repo_id) if card.ok else _not_run(item[0], "card") for item in needing_it.items()]
    return [*checks, card, *more]


def check_license(folder: Path, repo_id: str) -> str:
    metadata = read_metadata(_card(folder))
    license = metadata.get("license")
    remedy = (
        f"Find out what the licenses of the base model and of the data allow, and say it with `metis-home card "
        f"--model_name_or_path {folder} --license ...`."
    )
    if not license:
        raise ValueError(f"README.md states no license, so nobody may use this. {remedy}")
    if license == "other" and not metadata.get("license_name"):
        raise ValueError(
            "README.md has `license: other`, with which the Hub wants `license_name` and `license_link`. Write both "
            "into its metadata, e.g. `license_name: qwen-research` and `license_link: LICENSE`, and put the text into "
            "the file LICENSE."
        )
    if metadata.get("license_link") == "LICENSE" and not (folder / "LICENSE").is_file():
        raise ValueError(
            "README.md has `license_link: LICENSE`, but there is no such file. Put the license's text there."
        )
    return str(metadata.get("license_name") or license)


def check_example(folder: Path, repo_id: str) -> str:
    if PLACEHOLDER in _card(folder):
        raise ValueError(
            f"README.md loads it as {PLACEHOLDER!r}, a placeholder. Put the name there with `metis-home card "
            f"--model_name_or_path {folder} --model_id {repo_id}`."
        )
    return "the card names a repository"


def check_results(folder: Path, repo_id: str) -> str:
    noted = re.search(r"weights ([0-9a-f]{12})\.", _card(folder)) if (folder / "README.md").is_file() else None
    if noted is None:
        return "none on the card"
    if not weights_fingerprint(folder).startswith(noted[1]):
        raise ValueError(
            "README.md has results of other weights than these. Evaluate the model again and run `metis-home card "
            f"--model_name_or_path {folder} --outcomes ...`, or remove the results."
        )
    return "of these weights"


def _isolated(folder: Path, trust_remote_code: bool) -> Check:
    if not trust_remote_code and (foreign := foreign_code(folder)):
        return Check(
            "isolated load",
            False,
            f"{', '.join(foreign)}: not this package's version, so it is not run unasked. Read it and pass "
            "--trust_remote_code, or load the model with this package and save it again.",
        )
    return _run("isolated load", load_isolated, folder)


def load_isolated(folder: Path) -> str:
    """Load the folder in a process that cannot import this package. Returns what was loaded."""
    with tempfile.TemporaryDirectory() as scratch:
        # Nothing is fetched, no token is there to be read, and no GPU is needed.
        secrets = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN")
        environment = {name: value for name, value in os.environ.items() if name not in secrets}
        environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": scratch, "HF_MODULES_CACHE": f"{scratch}/modules"}
        environment |= {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_DISABLE_TELEMETRY": "1"}
        command = [sys.executable, "-I", str(LOADER), str(folder.resolve())]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=scratch, env=environment, stdin=subprocess.DEVNULL
        )
    if done.returncode:
        raise ValueError(
            f"Without this package the folder does not load: {done.stderr.strip()[-LONGEST:]}\nSave the model again "
            "with this package, which puts the code beside it."
        )
    found = json.loads(done.stdout.splitlines()[-1])
    if found["wrong"]:
        raise ValueError(
            f"Without this package the folder loads with other tensors than it has: {found['wrong']}. Save the model "
            "again with this package."
        )
    return f"{found['model']} and {found['processor']} without this package"


def _card(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8-sig")


def _run(name: str, check, *given) -> Check:
    try:
        return Check(name, True, check(*given))
    except (ValueError, OSError) as error:
        return Check(name, False, str(error))


def _not_run(name: str, needed: str) -> Check:
    return Check(name, None, f"not run, needs {needed}")
