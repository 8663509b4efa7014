"""The one progress bar: a bar on a terminal, elsewhere a line every ten seconds. Both go to standard error."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


SECONDS = 10  # between two lines without a terminal


@contextmanager
def progress(description: str, total: float, unit: str = "") -> Iterator[Callable[[float], None]]:
    """
    Show the progress of some work while the block runs.

    Args:
        description (`str`):
            What is being done, e.g. `"Answering"`.
        total (`float`):
            How much there is to do.
        unit (`str`, *optional*, defaults to `""`):
            What is counted; `"bytes"` are shown as MB.

    Yields:
        `Callable`: takes how much more has been done.

    Example:

    ```python
    >>> from hf_metis_home._progress import progress

    >>> with progress("Answering", total=2) as advance:
    ...     for question in ("3 + 4", "5 + 6"):
    ...         advance(1)
    ```
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    done = 0.0
    scale, shown_unit = (1e-6, " MB") if unit == "bytes" else (1.0, f" {unit}".rstrip())

    def state() -> str:
        return f"{done * scale:,.0f} of {total * scale:,.0f}{shown_unit}"

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"), TimeRemainingColumn())
    finished = threading.Event()

    def print_lines() -> None:
        while not finished.wait(SECONDS):
            console.print(f"{description}: {state()}", highlight=False)

    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(description, total=total, state=state())

        def advance(count: float) -> None:
            nonlocal done
            done += count
            bar.update(task, completed=done, state=state())

        lines = threading.Thread(target=print_lines, daemon=True)
        if not console.is_terminal:
            lines.start()
        try:
            yield advance
        finally:
            finished.set()
