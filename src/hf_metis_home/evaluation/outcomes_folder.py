"""Reading what `metis-home eval` wrote into a folder."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset

from .outcomes import read_outcomes


@dataclass(frozen=True)
class OutcomesFolder:
    """
    An evaluation on disk.

    Args:
        path (`Path`):
            The Parquet file with the outcomes.
        outcomes ([`~datasets.Dataset`]):
            The table itself.
        run (`dict`):
            Contents of `run.json`; empty if there is none.
        questions (`Path`, *optional*):
            `questions.parquet`, if it is there.
    """

    path: Path
    outcomes: Dataset
    run: dict
    questions: Path | None

    def check_weights(self, weights: str) -> None:
        """Raise an error if the outcomes are of a model with another fingerprint; warn if `run.json` has none."""
        model = self.run.get("model") or {}
        if model.get("name") and not model.get("weights"):
            print(
                f"warning: {self.path.with_name('run.json')} names the model {model['name']!r} but not its weights, so "
                "these outcomes may be of another model. Evaluate again to be sure.",
                file=sys.stderr,
            )
        elif model.get("weights") not in (None, weights):
            raise ValueError(
                f"`outcomes` is {str(self.path)!r}, from a model with other weights ({model.get('name')!r}, see "
                "run.json). Evaluate this model and use its own outcomes."
            )


def read_outcomes_folder(path: str | Path, argument: str = "outcomes") -> OutcomesFolder:
    """
    Read the outcomes of an evaluation and the files next to them.

    Args:
        path (`str` or `Path`):
            Folder that `metis-home eval` wrote, or just its `outcomes.parquet`.
        argument (`str`, *optional*, defaults to `"outcomes"`):
            What the caller's user calls the path, for error messages.

    Returns:
        [`OutcomesFolder`].

    Raises:
        FileNotFoundError: no outcomes there.
        ValueError: `outcomes.parquet` or `run.json` cannot be read.

    Example:

    ```python
    >>> from hf_metis_home.evaluation.outcomes_folder import read_outcomes_folder

    >>> len(read_outcomes_folder("runs/outcomes").outcomes)
    ```
    """
    path = Path(path)
    table = path / "outcomes.parquet" if path.is_dir() else path
    questions = table.with_name("questions.parquet")
    return OutcomesFolder(
        table,
        read_outcomes(table, argument),
        _read_run(table.with_name("run.json")),
        questions if questions.is_file() else None,
    )


def _read_run(path: Path) -> dict:
    if not path.is_file():
        return {}
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is not valid JSON ({error}). Fix or delete it.") from error
    if not isinstance(run, dict):
        raise ValueError(f"{str(path)!r} contains a {type(run).__name__} instead of a JSON object. Fix or delete it.")
    return run
