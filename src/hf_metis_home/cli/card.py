"""
Write the README.md of a folder for the Hub from what lies in it, or bring it up to date. What you wrote in it stays.

    metis-home card --model_name_or_path runs/hybrid --outcomes runs/outcomes --license apache-2.0 --model_id me/hybrid
"""

import shlex
import sys
from dataclasses import asdict, dataclass, field

from ._run import run_verb


@dataclass
class CardArguments:
    model_name_or_path: str = field(
        metadata={"help": "folder of a model, an export, an adapter, or of rows that build-data wrote"}
    )
    outcomes: str | None = field(
        default=None, metadata={"help": "folder that `metis-home eval` wrote about this model, for its results"}
    )
    license: str | None = field(default=None, metadata={"help": "license identifier of the Hub, e.g. apache-2.0"})
    model_id: str | None = field(default=None, metadata={"help": "Hub id under which the card's example loads it"})
    title: str | None = field(default=None, metadata={"help": "heading; by default the name in --model_id"})
    base_model: str | None = field(
        default=None, metadata={"help": "Hub id that it was made from, where the folder does not tell"}
    )
    datasets: list[str] | None = field(default=None, metadata={"help": "Hub ids of the training data"})
    language: list[str] | None = field(default=None, metadata={"help": "language codes, e.g. en"})
    code_revision: str | None = field(
        default=None, metadata={"help": "commit of the repository whose code the card's example loads"}
    )


def main(argv: list[str] | None = None) -> int:
    """`metis-home card`. Takes the flags, gives the exit code."""
    return run_verb("card", CardArguments, _card, argv, __doc__)


def _card(arguments: CardArguments) -> None:
    if arguments.outcomes is not None:
        from .._extras import require_extra

        require_extra("eval", "datasets", "pyarrow", "matplotlib")
    from ..publishing import update_card

    done = update_card(**asdict(arguments))
    for name in done["kept"]:
        print(f"Left the section {name!r}, which somebody has changed; remove it to have it written anew.")
    words = ["--model_name_or_path", arguments.model_name_or_path, "--repo_id", arguments.model_id or "OWNER/NAME"]
    step = f"read it, then metis-home push {shlex.join(words)} --dry_run"
    print(f"Wrote {', '.join(done['files'])} in {arguments.model_name_or_path}. Next: {step}")


if __name__ == "__main__":
    sys.exit(main())
