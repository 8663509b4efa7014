"""
Check a two-branch folder: configuration, weights, code, processor and card. Its code is not run.

    metis-home validate --model_name_or_path runs/hybrid

Right after upcycling, also check that both branches equal the dense model to the last bit:

    metis-home validate --model_name_or_path runs/hybrid --dense_model runs/base
"""

import json
from dataclasses import asdict, dataclass

from ._arguments import flag
from ._run import verb


@dataclass
class ValidateArguments:
    model_name_or_path: str = flag("folder of a two-branch model")
    dense_model: str | None = flag("dense model, folder or Hub id, that both branches must equal", None)
    json: bool = flag("print JSON: name, ok (null: not run) and detail of each check", False)


@verb
def main(arguments: ValidateArguments) -> int:
    """Run `metis-home validate`. The exit code is 0 if all checks passed, 1 if one failed, 2 for a wrong call."""
    from ..conversion import validate_checkpoint

    checks = validate_checkpoint(arguments.model_name_or_path, dense_model=arguments.dense_model)
    if arguments.json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        print_checks(checks)
    return int(any(check.ok is False for check in checks))


def print_checks(checks: list) -> None:
    """One line per check, with ✓, ✗ or – (not run)."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    for check in checks:
        sign, style = {True: ("✓", "green"), False: ("✗", "bold red"), None: ("–", "dim")}[check.ok]
        console.print(Text.assemble((sign, style), f" {check.name}: {check.detail}"))


if __name__ == "__main__":
    raise SystemExit(main())
