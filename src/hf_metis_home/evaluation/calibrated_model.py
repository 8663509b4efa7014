"""A calibrated threshold, written into a model's configuration with what it rests on."""

import hashlib
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from .. import __version__
from .._folders import write_whole
from ..conversion.checkpoint import HYBRID, read_config
from ..conversion.fingerprint import calibration_problem, weights_fingerprint
from ..hub_templates.model_card import refresh_routing
from .calibration import calibrate_threshold
from .outcomes import read_outcomes


def calibrate_model(model_name_or_path: str | Path, outcomes: str | Path, **options) -> dict:
    """
    Choose a threshold from outcomes and write it into `config.json`, as `thinking_threshold` and `calibration`, and
    into what README.md says about it, unless somebody has changed that. Both files are replaced whole; no weights are
    written.

    Args:
        model_name_or_path (`str` or `Path`):
            Folder of a two-branch model.
        outcomes (`str` or `Path`):
            Folder that `metis-home eval` wrote, or its `outcomes.parquet`.
        options:
            Target, `confidence`, `validation_fraction` and `seed` of [`~evaluation.calibration.calibrate_threshold`].

    Returns:
        `dict`: what `calibrate_threshold` gives, with `outcomes_sha256`, `weights` (their fingerprint), `date` and
        `version` of this package.

    Raises:
        FileNotFoundError: no such folder or file.
        ValueError: no two-branch model, outcomes of other weights, or what `calibrate_threshold` refuses. Nothing is
            written then.

    Example:

    ```python
    >>> from hf_metis_home.evaluation.calibrated_model import calibrate_model

    >>> calibrate_model("runs/hybrid", "runs/outcomes", thinking_ratio=0.4)["statement"]
    ```
    """
    folder = Path(model_name_or_path)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"`model_name_or_path` is {str(model_name_or_path)!r}, which is not a folder here, so nothing can be "
            "written into it. Fetch a Hub repository first, with `hf download OWNER/NAME --local-dir FOLDER`."
        )
    read_config(folder, "model_name_or_path", HYBRID)
    path = Path(outcomes)
    path = path / "outcomes.parquet" if path.is_dir() else path
    table = read_outcomes(path)
    weights = weights_fingerprint(folder)
    check_same_weights(path, weights)
    if problem := calibration_problem(folder):
        print(f"warning: {problem} It is replaced now.", file=sys.stderr)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    found = {
        **calibrate_threshold(table, **options),
        "outcomes_sha256": digest,
        "weights": weights,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": __version__,
    }
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {"thinking_threshold": found["threshold"], "calibration": found}
    write_whole(folder / "config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")
    if refresh_routing(folder):
        print(
            "warning: somebody has changed what README.md says on routing, so it was left. See whether it still holds.",
            file=sys.stderr,
        )
    return found


def check_same_weights(path: Path, weights: str) -> None:
    """An error where the record beside outcomes names other weights, a warning where it names none."""
    run = path.with_name("run.json")
    noted = json.loads(run.read_text(encoding="utf-8")).get("model", {}) if run.is_file() else {}
    if noted.get("name") and not noted.get("weights"):
        print(
            f"warning: {run} says that they are of {noted['name']!r}, but not of which weights, so nobody can tell "
            "whether these outcomes are this model's. Evaluate again to be sure.",
            file=sys.stderr,
        )
    elif noted.get("weights") not in (None, weights):
        raise ValueError(
            f"`outcomes` is {str(path)!r}, of a model with other weights ({noted.get('name')!r}, see {run.name}). "
            "Evaluate this model, and take its own outcomes."
        )
