"""What every verb does around its own work: parse, run, and report errors the way a user can act on."""

import os
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

from .._remarks import leave_out_remarks
from ._arguments import parse_arguments


PACKAGE = Path(__file__).parents[1]
# What the package raises on purpose, with a text made for users.
USER_ERRORS = (ValueError, OSError, ImportError)


def run_verb(
    verb: str, arguments_class: type, function: Callable[..., None], argv: list[str] | None, description: str
) -> int:
    """
    Run `function` on the parsed arguments.

    Args:
        verb (`str`):
            Name after `metis-home`.
        arguments_class (`type`):
            Dataclass of the flags.
        function (`Callable`):
            Takes one instance of `arguments_class`.
        argv (`list[str]`, *optional*):
            Flags and values; the process's own by default.
        description (`str`):
            Of the module, shown by `--help`: its first paragraph above the flags, its examples below them.

    Returns:
        `int`: 0; 2 where the package refused something, after one message without a traceback (with one where the
        environment variable `METIS_HOME_DEBUG` is 1); 130 after Ctrl-C. Other exceptions pass through.
    """
    prog = f"metis-home {verb}"
    argv = sys.argv[1:] if argv is None else argv
    return report_errors(prog, lambda: function(parse_arguments(arguments_class, argv, prog, description)))


def report_errors(prog: str, function: Callable[[], None]) -> int:
    """Run `function` and give the exit code, as [`run_verb`] says."""
    leave_out_remarks()
    try:
        function()
    except USER_ERRORS as error:
        if os.environ.get("METIS_HOME_DEBUG") == "1" or not _raised_here(error):
            raise
        print(f"{prog}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{prog}: interrupted", file=sys.stderr)
        return 130
    return 0


def _raised_here(error: Exception) -> bool:
    """Whether the package raised `error` with a `raise`. The same types out of other code are bugs, not answers."""
    if isinstance(error, ImportError) and error.name is not None:  # an import statement that failed
        return False
    traceback = error.__traceback__
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return Path(traceback.tb_frame.f_code.co_filename).is_relative_to(PACKAGE)


def print_statement(metrics: dict) -> None:
    """What an evaluation shows, sentence by sentence."""
    from ..reports.statement import statement

    for sentence in statement(metrics):
        print(textwrap.fill(sentence, 100, initial_indent="- ", subsequent_indent="  "))
