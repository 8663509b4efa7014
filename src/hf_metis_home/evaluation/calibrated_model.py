"""Write a calibrated threshold into a model's configuration, with the data behind it."""

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
from .outcomes_folder import read_outcomes_folder


def calibrate_model(model_name_or_path: str | Path, outcomes: str | Path, **options) -> dict:
    """
    Choose a threshold from outcomes and write it into `config.json`, as `thinking_threshold` and `calibration`, and
    into the section on routing of README.md, unless someone has edited that. No weights are written.

    Args:
        model_name_or_path (`str` or `Path`):
            Folder of a two-branch model.
        outcomes (`str` or `Path`):
            Folder that `metis-home eval` wrote, or its `outcomes.parquet`.
        options:
            The target, `confidence`, `validation_fraction` and `seed`: see
            [`~evaluation.calibration.calibrate_threshold`].

    Returns:
        `dict`: what `calibrate_threshold` returns, with `outcomes_sha256`, `weights` (a fingerprint), `date` and
        `version` of this package.

    Raises:
        FileNotFoundError: no such folder or file.
        ValueError: not a two-branch model, outcomes of other weights, or an error of `calibrate_threshold`. Nothing is
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
            f"`model_name_or_path` is {str(model_name_or_path)!r}, which is not a local folder. To calibrate a Hub "
            "model, download it first with `hf download OWNER/NAME --local-dir FOLDER`."
        )
    read_config(folder, "model_name_or_path", HYBRID)
    evaluation, weights = read_outcomes_folder(outcomes), weights_fingerprint(folder)
    evaluation.check_weights(weights)
    if problem := calibration_problem(folder):
        print(f"warning: {problem} It is replaced now.", file=sys.stderr)
    found = {
        **calibrate_threshold(evaluation.outcomes, **options),
        "outcomes_sha256": hashlib.sha256(evaluation.path.read_bytes()).hexdigest(),
        "weights": weights,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": __version__,
    }
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {"thinking_threshold": found["threshold"], "calibration": found}
    write_whole(folder / "config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")
    if refresh_routing(folder):
        print(
            "warning: the section on routing in README.md was edited and is not updated. Check that it is still true.",
            file=sys.stderr,
        )
    return found
