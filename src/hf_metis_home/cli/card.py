"""
Write or update the README.md of a folder for the Hub from what the folder contains. Your own text in it is kept.

    metis-home card --model_name_or_path runs/hybrid --outcomes runs/outcomes --license apache-2.0 --model_id me/hybrid
"""

import shlex
from dataclasses import dataclass

from .._extras import require_extra
from ._arguments import flag
from ._run import verb


@dataclass
class CardArguments:
    model_name_or_path: str = flag("folder of a model, an export, an adapter, or of rows that build-data wrote")
    outcomes: str | None = flag("folder that `metis-home eval` wrote about this model, for its results", None)
    license: str | None = flag("license identifier of the Hub, e.g. apache-2.0", None)
    model_id: str | None = flag("Hub id that the card's example loads", None)
    title: str | None = flag("heading (default: the name in --model_id)", None)
    base_model: str | None = flag("Hub id of the base model, if the folder does not name it", None)
    datasets: list[str] | None = flag("Hub ids of the training data", None)
    language: list[str] | None = flag("language codes, e.g. en", None)
    code_revision: str | None = flag("commit of the code that the card's example loads", None)


@verb
def main(arguments: CardArguments) -> None:
    """Run `metis-home card`."""
    if arguments.outcomes is not None:
        require_extra("eval", "datasets", "pyarrow", "matplotlib")
    from ..publishing import update_card

    done = update_card(**vars(arguments))
    for name in done["kept"]:
        print(f"Kept the section {name!r}, which was edited by hand. Delete it to have it written again.")
    words = ["--model_name_or_path", arguments.model_name_or_path, "--repo_id", arguments.model_id or "OWNER/NAME"]
    print(
        f"Wrote {', '.join(done['files'])} in {arguments.model_name_or_path}. Next: read it, then metis-home push "
        f"{shlex.join(words)} --dry_run"
    )


if __name__ == "__main__":
    raise SystemExit(main())
