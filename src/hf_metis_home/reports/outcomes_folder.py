"""Reading what `metis-home eval` left in a folder."""

import json
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset

from ..evaluation.outcomes import read_outcomes


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
            Contents of `run.json`; empty where there is none.
        questions (`Path`, *optional*):
            `questions.parquet`, if it is there.
    """

    path: Path
    outcomes: Dataset
    run: dict
    questions: Path | None


def read_outcomes_folder(path: str | Path, argument: str = "outcomes") -> OutcomesFolder:
    """
    Read the outcomes of an evaluation and the files beside them.

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
    >>> from hf_metis_home.reports.outcomes_folder import read_outcomes_folder

    >>> len(read_outcomes_folder("runs/outcomes").outcomes)
    ```
    """
    path = Path(path)
    table = path / "outcomes.parquet" if path.is_dir() else path
    if not table.is_file():
        missing = "does not contain outcomes.parquet" if path.is_dir() else "does not exist"
        raise FileNotFoundError(
            f"`{argument}` is {str(path)!r}, which {missing}. Pass the folder that `metis-home eval` wrote."
        )
    questions = table.with_name("questions.parquet")
    return OutcomesFolder(
        table, read_outcomes(table), _read_run(table.with_name("run.json")), questions if questions.is_file() else None
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
