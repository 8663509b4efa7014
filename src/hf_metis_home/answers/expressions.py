"""
Whether two mathematical expressions are equal, by math-verify, whatever they are.

Some expressions take for ever or all memory (`9^{9^{9^9}}`). math-verify stops them with an alarm signal, which only
the main thread of a process can have and which does not interrupt a long step in C. So it runs in a process of its own,
one per process that asks: any thread may ask, a process that was forked starts another, and what hangs is killed.
"""

import json
import os
import selectors
import subprocess
import sys
import threading
import time
from functools import lru_cache
from pathlib import Path

from .._extras import require_extra


SCRIPT = Path(__file__).with_name("expression_worker.py")
START_SECONDS = 120  # importing sympy from a cold disk takes its time
REPLY_SECONDS = 6  # past the alarms of the worker


@lru_cache(maxsize=8192)
def expressions_equal(answer: str, solution: str) -> bool:
    """
    Whether an expression equals the gold one.

    Args:
        answer, solution (`str`):
            LaTeX without dollar signs, or plain text such as `x^2 + 1`.

    Returns:
        `bool`: False as well where math-verify cannot read one of the two, or takes longer than `REPLY_SECONDS`.

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
        for _ in range(2):
            if _worker is None:
                require_extra("train", "math_verify")
                _worker = _Worker()
            try:
                _worker.send([answer, solution])
                break
            except BrokenPipeError:  # it ended since the last question; that says nothing about this one
                _close()
        reply = None if _worker is None else _worker.read_line(REPLY_SECONDS)
        if reply is None:
            _close()
        return reply == b"1"


class _Worker:
    """A running `expression_worker.py`."""

    def __init__(self):
        # A session of its own: Ctrl-C is for the process that asks. It ends with its standard input.
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", str(SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self.received = b""
        if self.read_line(START_SECONDS) != b"ready":
            self.kill()
            raise RuntimeError(
                f"The process that compares expressions did not start within {START_SECONDS} s; what it said stands "
                f"above. Try `{sys.executable} -P {SCRIPT}`, which should print `ready`."
            )

    def send(self, pair: list[str]) -> None:
        self.process.stdin.write(json.dumps(pair).encode() + b"\n")
        self.process.stdin.flush()

    def read_line(self, seconds: float) -> bytes | None:
        """The next line, or None where there is none in time."""
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self.received:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    return None
                if not (chunk := os.read(self.process.stdout.fileno(), 4096)):
                    return None
                self.received += chunk
        line, _, self.received = self.received.partition(b"\n")
        return line

    def kill(self) -> None:
        self.process.kill()
        self.process.stdout.close()
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        self.process.wait()


_lock = threading.Lock()
_worker: _Worker | None = None


def _close() -> None:
    global _worker
    if _worker is not None:
        _worker.kill()
    _worker = None


def _forget() -> None:
    """In a forked process: the parent's worker is not ours, and its lock may have been held."""
    global _lock, _worker
    _lock, _worker = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
