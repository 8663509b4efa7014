"""A folder to write: checked before the work, made next to its place, moved there whole or not at all."""

import errno
import glob
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_in_use: set[Path] = set()  # folders that this process is writing


def check_output_dir(output_dir: str | Path, argument: str = "output_dir") -> Path:
    """The path of a folder that can be written. An error if it is not empty, or cannot be replaced."""
    output_dir = Path(output_dir)
    if output_dir.is_file() or (output_dir.is_dir() and any(output_dir.iterdir())):
        raise FileExistsError(
            f"`{argument}` is {str(output_dir)!r}, which is not empty. Choose another folder or remove it."
        )
    if os.path.ismount(output_dir):
        raise OSError(
            f"`{argument}` is {str(output_dir)!r}, a mount point, which cannot be replaced. Choose a folder in it."
        )
    return output_dir


@contextmanager
def staged_folder(output_dir: str | Path) -> Iterator[Path]:
    """
    A new folder next to `output_dir`, moved into its place when the block ends, removed when the block fails.

    What a killed process of this machine left there is removed first. If `output_dir` is a link, its target counts.

    Raises:
        FileExistsError: `output_dir` has content.
        OSError: the folder cannot be made, written or moved.
    """
    check_output_dir(output_dir)
    target, host = Path(output_dir).resolve(), socket.gethostname()
    staging = target.parent / f".{target.name}.{host}.{os.getpid()}.partial"
    for left in target.parent.glob(f".{glob.escape(target.name)}.{glob.escape(host)}.*.partial"):
        # In a container, the process that died and the one that comes next often have the same number.
        dead = left not in _in_use if left == staging else not _is_running(left.suffixes[-2].removeprefix("."))
        if dead:
            shutil.rmtree(left, ignore_errors=True)
    try:
        staging.mkdir(parents=True)
    except OSError as error:
        raise OSError(
            f"`output_dir` is {str(output_dir)!r}, where no folder can be created ({error}). Choose another place."
        ) from error
    _in_use.add(staging)
    try:
        yield staging
        _move(staging, target)
    except BaseException as error:
        shutil.rmtree(staging, ignore_errors=True)
        if isinstance(error, SafetensorError) or (isinstance(error, OSError) and error.errno in NO_ROOM):
            raise OSError(
                f"`output_dir` is {str(output_dir)!r}, which could not be written ({error}). Free some space, "
                "or choose another folder."
            ) from error
        raise
    finally:
        _in_use.discard(staging)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file atomically: at every moment it is the old one or the new one."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _move(staging: Path, target: Path) -> None:
    try:
        if target.is_dir():
            target.rmdir()
        staging.rename(target)
    except OSError as error:
        raise OSError(
            f"`output_dir` is {str(target)!r}, which appeared during the run ({error}). Choose another folder."
        ) from error


def _is_running(process_id: str) -> bool:
    try:
        os.kill(int(process_id), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        pass  # somebody else's
    return True
