"""Whether a two-branch folder is whole and agrees with itself. Its files are read; its code is never run."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .checkpoint import open_checkpoint
from .validate_files import check_card, check_code, check_processor, check_token_ids
from .validate_weights import (
    Folder,
    check_calibration,
    check_configuration,
    check_dtypes,
    check_files,
    check_finite,
    check_head,
    check_parity,
    check_tensors,
)


@dataclass(frozen=True)
class Check:
    """
    The result of one check.

    Args:
        name (`str`):
            What was checked.
        ok (`bool`, *optional*):
            None where the check was not run, because one that it needs failed.
        detail (`str`):
            What was found; where it failed, what is wrong and the remedy.
    """

    name: str
    ok: bool | None
    detail: str


# Name, the checks without which it cannot run, and the function: it returns what it found, or raises what is wrong.
CHECKS: tuple[tuple[str, tuple[str, ...], Callable[[Folder], str]], ...] = (
    ("configuration", (), check_configuration),
    ("files", (), check_files),
    ("tensors", ("configuration", "files"), check_tensors),
    ("dtypes", ("files",), check_dtypes),
    ("finite values", ("files",), check_finite),
    ("calibration", ("configuration", "files"), check_calibration),
    ("head", ("tensors",), check_head),
    ("code", ("configuration",), check_code),
    ("processor", (), check_processor),
    ("token ids", ("configuration", "processor"), check_token_ids),
    ("card", (), check_card),
)
PARITY = ("dense parity", ("tensors", "finite values"), check_parity)


def validate_checkpoint(model_name_or_path: str | Path, *, dense_model: str | Path | None = None) -> list[Check]:
    """
    Check a two-branch folder: configuration, weights, code, processor and card, and that they agree.

    Tensors are read one after another, so this needs the memory of the largest, and the time to read the files.
    Nothing is fetched or written, and no code of the folder runs.

    Args:
        model_name_or_path (`str` or `Path`):
            Folder that `metis-home upcycle`, `save_hub_folder` or a trainer wrote, also one with the router alone.
        dense_model (`str` or `Path`, *optional*):
            Dense Qwen2.5-VL, folder or Hub repository, that both branches shall equal to the last bit: what holds after
            upcycling it, and no more after training.

    Returns:
        `list[Check]`: one per check, in a fixed order, whether it passed or not.

    Raises:
        FileNotFoundError: `model_name_or_path` is no folder, or `dense_model` is missing.
        ValueError: `dense_model` is not a whole dense checkpoint.

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
            f"`model_name_or_path` is {str(model_name_or_path)!r}, which is not a folder here. Give the path of one; "
            "fetch a Hub repository first, with `hf download OWNER/NAME --local-dir FOLDER`."
        )
    if dense_model is not None:
        folder.dense = open_checkpoint(dense_model, "dense_model")
    results = {}
    for name, needs, check in (*CHECKS, PARITY) if dense_model is not None else CHECKS:
        failed = [need for need in needs if not results[need].ok]
        results[name] = Check(name, None, f"not run, needs {failed[0]}") if failed else _run(name, check, folder)
    return list(results.values())


def _run(name: str, check: Callable[[Folder], str], folder: Folder) -> Check:
    try:
        return Check(name, True, check(folder))
    except (ValueError, OSError) as error:
        return Check(name, False, str(error))
