"""
Whether two mathematical expressions are equal, by math-verify.

Some expressions take forever or use up all memory (`9^{9^{9^9}}`). math-verify stops them with an alarm signal, which
works only in the main thread of a process and cannot interrupt a long step in C. So math-verify runs in a process of
its own, one for each process that asks: any thread may ask, a forked process starts another one, and a process that
hangs is killed.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
from functools import lru_cache
from pathlib import Path

from .._extras import require_extra


SCRIPT = Path(__file__).with_name("expression_worker.py")
START_SECONDS = 120  # importing sympy from a cold disk is slow
REPLY_SECONDS = 6  # longer than the alarms of the worker

_lock = threading.Lock()
_worker: subprocess.Popen | None = None


@lru_cache(maxsize=8192)
def expressions_equal(answer: str, solution: str) -> bool:
    """
    Whether an expression equals the gold one.

    Args:
        answer, solution (`str`):
            LaTeX without dollar signs, or plain text such as `x^2 + 1`.

    Returns:
        `bool`: also False if math-verify cannot read one of the two, or takes longer than `REPLY_SECONDS`.

    Raises:
        ImportError: math-verify is not installed.

    Example:

    ```python
    >>> from hf_metis_home.answers.expressions import expressions_equal

    >>> expressions_equal("(x - 1)(x + 1)", "x^2 - 1")
    True
    ```
    """
    global _worker
    with _lock:
        if _worker is None or _worker.poll() is not None:
            _close()
            _worker = _start()
        reply = _ask(_worker, json.dumps([answer, solution]) + "\n", REPLY_SECONDS)
        if not reply:
            _close()
        return reply == "1\n"


def _start() -> subprocess.Popen:
    require_extra("train", "math_verify")
    # In a session of its own, so that Ctrl-C does not reach it. It ends when its standard input is closed.
    command = [sys.executable, "-P", "-W", "ignore", str(SCRIPT)]
    worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
    if _ask(worker, "", START_SECONDS) != "ready\n":
        worker.kill()
        raise RuntimeError(
            f"The process that compares expressions did not start within {START_SECONDS} s; see its output above. Run "
            f"`{sys.executable} -P {SCRIPT}`: it should print `ready`."
        )
    return worker


def _ask(worker: subprocess.Popen, question: str, seconds: float) -> str:
    """The next line of the worker; "" if it is dead, or was killed because it took too long."""
    timer = threading.Timer(seconds, worker.kill)
    timer.start()
    try:
        worker.stdin.write(question)
        worker.stdin.flush()
        return worker.stdout.readline()
    except BrokenPipeError:
        return ""
    except BaseException:  # Ctrl-C: the reply must not be taken for that to the next question
        worker.kill()
        worker.wait()
        raise
    finally:
        timer.cancel()


def _close() -> None:
    global _worker
    if _worker is not None:
        _worker.kill()
        _worker.wait()
        _worker.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            _worker.stdin.close()
    _worker = None


def _forget() -> None:
    """In a forked process: the worker is the parent's, and its lock may be held."""
    global _lock, _worker
    _lock, _worker = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
