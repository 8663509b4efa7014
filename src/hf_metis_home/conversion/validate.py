"""Whether a two-branch folder is complete and consistent. Its files are read; its code never runs."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from . import validate_files as files
from . import validate_weights as weights
from .checkpoint import open_checkpoint
from .validate_weights import Folder


@dataclass(frozen=True)
class Check:
    """
    The result of one check.

    Args:
        name (`str`):
            What was checked.
        ok (`bool`, *optional*):
            None if the check did not run, because one that it needs failed.
        detail (`str`):
            A remark; for a failed check what is wrong and the remedy.
    """

    name: str
    ok: bool | None
    detail: str


Planned = tuple[str, tuple[str, ...], Callable[[], str]]


def run_checks(planned: Iterable[Planned], done: Iterable[Check] = ()) -> list[Check]:
    """
    Run checks one after the other. Errors become results.

    Args:
        planned (`Iterable[tuple]`):
            Name, the checks that must pass first, and the function, which returns a remark or raises what is wrong.
        done (`Iterable[Check]`, *optional*):
            Results of earlier checks, which come first in the list.
    """
    results = {check.name: check for check in done}
    for name, needs, check in planned:
        failed = [need for need in needs if not results[need].ok]
        try:
            ok, detail = (None, f"not run, needs {failed[0]}") if failed else (True, check())
        except (ValueError, OSError) as error:
            ok, detail = False, str(error)
        results[name] = Check(name, ok, detail)
    return list(results.values())


CHECKS: tuple[tuple[str, tuple[str, ...], Callable[[Folder], str]], ...] = (
    ("configuration", (), weights.check_configuration),
    ("files", (), weights.check_files),
    ("tensors", ("configuration", "files"), weights.check_tensors),
    ("dtypes", ("files",), weights.check_dtypes),
    ("finite values", ("files",), weights.check_finite),
    ("calibration", ("configuration", "files"), weights.check_calibration),
    ("head", ("tensors",), weights.check_head),
    ("code", ("configuration",), files.check_code),
    ("processor", (), files.check_processor),
    ("token ids", ("configuration", "processor"), files.check_token_ids),
    ("card", (), lambda folder: files.check_card(folder.path)),
)
PARITY = ("dense parity", ("tensors", "finite values"), weights.check_parity)


def validate_checkpoint(model_name_or_path: str | Path, *, dense_model: str | Path | None = None) -> list[Check]:
    """
    Check a two-branch folder: configuration, weights, code, processor and card, and whether they agree.

    Tensors are read one at a time, so this needs memory for the largest, and the time to read all files. Nothing is
    fetched or written, and no code of the folder runs.

    Args:
        model_name_or_path (`str` or `Path`):
            Folder that `metis-home upcycle`, `save_hub_folder` or a trainer wrote, or a router export.
        dense_model (`str` or `Path`, *optional*):
            Dense Qwen2.5-VL, folder or Hub repository, that both branches should equal to the last bit. They do after
            upcycling, but not after training.

    Returns:
        `list[Check]`: one per check, in a fixed order, whether it passed or not.

    Raises:
        FileNotFoundError: `model_name_or_path` is not a folder, or `dense_model` is missing.
        ValueError: `dense_model` is not a complete dense checkpoint.

    Example:

    ```python
    >>> from hf_metis_home import validate_checkpoint

    >>> checks = validate_checkpoint("runs/hybrid", dense_model="runs/base")
    >>> [check.name for check in checks if check.ok is False]
    []
    ```
    """
    folder = Folder(Path(model_name_or_path))
    if not folder.path.is_dir():
        raise FileNotFoundError(
            f"`model_name_or_path` is {str(model_name_or_path)!r}, not a folder here. Run `hf download` first."
        )
    if dense_model is not None:
        folder.dense = open_checkpoint(dense_model, "dense_model")
    checks = (*CHECKS, PARITY) if dense_model is not None else CHECKS
    return run_checks((name, needs, partial(check, folder)) for name, needs, check in checks)
