"""
Check a two-branch folder: configuration, weights, code, processor, card. Its code is not run.

    metis-home validate --model_name_or_path runs/hybrid

Right after upcycling, also that both branches equal the dense model to the last bit:

    metis-home validate --model_name_or_path runs/hybrid --dense_model runs/base
"""

import json
import sys
from dataclasses import asdict, dataclass, field

from ._run import run_verb


@dataclass
class ValidateArguments:
    model_name_or_path: str = field(metadata={"help": "folder of a two-branch model"})
    dense_model: str | None = field(
        default=None, metadata={"help": "dense model, folder or Hub id, that both branches shall equal"}
    )
    json: bool = field(
        default=False, metadata={"help": "print JSON: name, ok (null: not run) and detail of each check"}
    )


def main(argv: list[str] | None = None) -> int:
    """`metis-home validate`. Takes the flags, gives the exit code: 0 all is well, 1 a check failed, 2 a wrong call."""
    failed = []
    code = run_verb(
        "validate",
        ValidateArguments,
        lambda arguments: failed.extend(_validate(arguments)),
        argv,
        __doc__,
    )
    return code or int(bool(failed))


def _validate(arguments: ValidateArguments) -> list:
    """Prints the checks and returns those that failed."""
    from ..conversion import validate_checkpoint

    checks = validate_checkpoint(arguments.model_name_or_path, dense_model=arguments.dense_model)
    if arguments.json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        print_checks(checks)
    return [check for check in checks if check.ok is False]


def print_checks(checks: list) -> None:
    """A line with a sign for each."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    for check in checks:
        sign, style = {True: ("✓", "green"), False: ("✗", "bold red"), None: ("–", "dim")}[check.ok]
        console.print(Text.assemble((sign, style), f" {check.name}: {check.detail}"))


if __name__ == "__main__":
    sys.exit(main())
