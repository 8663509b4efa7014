"""What every verb does around its own work: parse flags, run, and report errors that a user can act on."""

import functools
import os
import sys
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from .._remarks import leave_out_remarks
from ._arguments import parse_arguments


PACKAGE = Path(__file__).parents[1]
# What the package raises on purpose, with a message for users.
USER_ERRORS = (ValueError, OSError, ImportError)


def verb(function: Callable[[Any], int | None]) -> Callable[..., int]:
    """
    Decorates the `main` of a verb's module: it takes the verb's dataclass of flags, and is called with words.

    The module's name is the verb, and its docstring the help. What `main` returns is the exit code (None: 0);
    otherwise it is 2 after an error of the user's, 130 after Ctrl-C.

    Example:

    ```python
    >>> from hf_metis_home.cli.report import main

    >>> main(["--outcomes", "runs/outcomes"])
    0
    ```
    """

    @functools.wraps(function)
    def main(argv: list[str] | None = None) -> int:
        module = sys.modules[function.__module__]
        prog = "metis-home " + module.__spec__.name.rpartition(".")[2].replace("_", "-")
        words = sys.argv[1:] if argv is None else argv
        arguments_class = function.__annotations__["arguments"]
        return report_errors(prog, lambda: function(parse_arguments(arguments_class, words, prog, module.__doc__)))

    return main


def report_errors(prog: str, function: Callable[[], int | None]) -> int:
    """
    Run `function` and return the exit code. An error that the package raised becomes one message without a traceback
    (with one if the environment variable `METIS_HOME_DEBUG` is 1); other exceptions pass through.
    """
    leave_out_remarks()
    try:
        return function() or 0
    except USER_ERRORS as error:
        if os.environ.get("METIS_HOME_DEBUG") == "1" or not _raised_here(error):
            raise
        print(f"{prog}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{prog}: interrupted", file=sys.stderr)
        return 130


def _raised_here(error: Exception) -> bool:
    """Whether a `raise` in the package raised `error`. The same types from other code are bugs."""
    if isinstance(error, ImportError) and error.name is not None:  # an import statement that failed
        return False
    traceback = error.__traceback__
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return Path(traceback.tb_frame.f_code.co_filename).is_relative_to(PACKAGE)


def print_statement(metrics: dict) -> None:
    """What an evaluation shows, sentence by sentence."""
    from ..reports.statement import statement

    print_sentences(statement(metrics))


def print_sentences(sentences: Iterable[str]) -> None:
    """A list of sentences, wrapped."""
    for sentence in sentences:
        print(textwrap.fill(sentence, 100, initial_indent="- ", subsequent_indent="  "))


def print_table(columns: list[str], rows: Iterable[list[str]], title: str | None = None) -> None:
    """A table of figures, with labels in the first column. Without a terminal, no line is shortened."""
    from rich.console import Console
    from rich.table import Table

    table = Table(columns[0], box=None, pad_edge=False, header_style="bold", title=title, title_justify="left")
    for column in columns[1:]:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160
    console.print(table)
