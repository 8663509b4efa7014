"""
Conversions that are killed again and again, for `test_robustness.py`. Run as

    python -m tests.conversion.killed DENSE FOLDER STEP

where STEP is 1 to kill before every operation, and n before every n-th.

Importing takes seconds and converting a tiny model a tenth of one, so one process imports and every attempt is a fork
of it. The last line printed is JSON: for each kind of conversion a list of attempts.
"""

import gc
import json
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path


os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a fork cannot use a GPU that the process it came from has used

import torch  # noqa: E402

from hf_metis_home.conversion import export_checkpoint, upcycle_checkpoint  # noqa: E402


watched: dict = {}  # empty in the process that forks


def _count(event: str, args: tuple) -> None:
    """SIGKILL to this process before the operation number `at` on a path inside `folder`."""
    if watched and any(watched["folder"] in str(arg) for arg in args):
        watched["seen"] += 1
        if watched["seen"] == watched["at"]:
            os.kill(os.getpid(), signal.SIGKILL)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def fork(convert: Callable, before: Callable = lambda: None, seconds: float | None = None) -> int:
    """The signal that ended a child in which `convert` ran, 0 for none; after `seconds` it is killed from here."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            before()
            convert()
            code = 0
        finally:
            os._exit(code)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status):
        raise RuntimeError("A conversion failed by itself.")
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def attempts(source: Path, parent: Path, convert: Callable[[Path, Path], object], step: int) -> list[dict]:
    output = parent / "out"
    parent.mkdir()
    inputs = contents(source)
    began = time.perf_counter()
    convert(source, output)
    duration = time.perf_counter() - began
    whole = contents(output)
    shutil.rmtree(output)

    def attempt(kind: str, go_on: bool = True, **how) -> dict:
        ended_by = fork(lambda: convert(source, output), **how)
        left = sorted(path.name for path in parent.iterdir())
        result = {
            "kind": kind,
            "signal": ended_by,
            "left": [name for name in left if name != "out"],
            "output": "absent" if not output.exists() else "whole" if contents(output) == whole else "partial",
            "inputs_unchanged": contents(source) == inputs,
        }
        shutil.rmtree(output, ignore_errors=True)
        if go_on:  # with a run that nothing disturbs
            fork(lambda: convert(source, output))
            result["next_whole"] = output.is_dir() and contents(output) == whole
            result["left_after_next"] = sorted(path.name for path in parent.iterdir() if path.name != "out")
            shutil.rmtree(output, ignore_errors=True)
        return result

    def at_operation(number: int) -> None:
        watched.update(folder=str(parent), seen=0, at=number)

    def at_byte(number: int) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (number, number))

    results = []
    while not results or results[-1]["signal"]:  # until one comes to its end
        number = len(results) * step + 1
        results.append(attempt("operation", len(results) % 8 == 0, before=lambda number=number: at_operation(number)))
    largest = max(len(content) for content in whole.values())
    for number in (1000, largest // 2, largest - 1):
        results.append(attempt("byte", number > 1000, before=lambda number=number: at_byte(number)))
    for _ in range(3):
        results.append(attempt("time", False, seconds=random.uniform(0, duration)))
    results.append(attempt("none"))
    return results


def main(dense: Path, folder: Path, step: int) -> None:
    torch.set_num_threads(1)  # threads do not outlive a fork
    sys.addaudithook(_count)
    gc.freeze()  # else a collection in a child would copy all that it looks at
    hybrid = upcycle_checkpoint(dense, folder / "hybrid")
    report = {
        "upcycle": attempts(dense, folder / "upcycle", lambda source, out: upcycle_checkpoint(source, out), step),
        "export": attempts(
            hybrid,
            folder / "export",
            lambda source, out: export_checkpoint(source, out, format="dense", branch="thinking"),
            step,
        ),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
