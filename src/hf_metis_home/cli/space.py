"""
Write a Gradio Space for a two-branch model: an app with the dial, both branches side by side, and example images.

Of a Hub repository, pinned to its newest commit:

    metis-home space --model_name_or_path OWNER/NAME --output_dir runs/space

Pinned to a commit that you name, without asking the Hub:

    metis-home space --model_name_or_path OWNER/NAME --output_dir runs/space \\
        --model_revision 0123456789abcdef0123456789abcdef01234567

Of a folder, to run on this machine:

    metis-home space --model_name_or_path runs/demo/hybrid --output_dir runs/space
"""

import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path

from ._arguments import UsageError
from ._run import run_verb


@dataclass
class SpaceArguments:
    model_name_or_path: str = field(metadata={"help": "two-branch model: Hub id, or a folder on this machine"})
    output_dir: str = field(metadata={"help": "folder to write; must not exist, or be empty"})
    model_revision: str | None = field(
        default=None, metadata={"help": "commit of the repository that the Space is pinned to (default: the newest)"}
    )
    title: str | None = field(default=None, metadata={"help": "of the page (default: the model's name)"})
    license: str | None = field(
        default=None, metadata={"help": "the Space's license, an identifier of the Hub; left out where it is not given"}
    )


def main(argv: list[str] | None = None) -> int:
    """`metis-home space`. Takes the flags, gives the exit code."""
    return run_verb("space", SpaceArguments, _space, argv, __doc__)


def _space(arguments: SpaceArguments) -> None:
    from .._folders import check_output_dir
    from ..hub_templates import write_space
    from ..hub_templates.space_folder import COMMIT, GRADIO

    name, revision = arguments.model_name_or_path, arguments.model_revision
    check_output_dir(arguments.output_dir)
    is_folder = Path(name).is_dir()
    if is_folder:
        _check_folder(name)
    elif not COMMIT.fullmatch(revision or ""):
        revision = _newest_commit(name, revision)
    write_space(name, arguments.output_dir, revision=revision, title=arguments.title, license=arguments.license)
    folder = shlex.quote(arguments.output_dir)
    pinned = "" if is_folder else f", pinned to {revision}"
    print(f"Wrote a Space for {name}{pinned}, to {arguments.output_dir}.")
    if is_folder:
        print("It runs on this machine only; write it with the model's Hub id before you publish it.")
    print(f"Next: pip install gradio=={GRADIO}, python {folder}/app.py, and open the address that it prints.")


def _check_folder(name: str) -> None:
    from ..conversion.checkpoint import HYBRID, model_type_of

    if (found := model_type_of(name)) != HYBRID:
        what = "has no config.json" if found is None else f"holds a model of the type {found!r}"
        raise UsageError(
            f"`--model_name_or_path` is {name!r}, which {what}. A Space shows both branches of a two-branch model: "
            "make one with metis-home upcycle."
        )


def _newest_commit(name: str, revision: str | None) -> str:
    """The commit that a branch or tag, the main branch by default, of a Hub repository stands at."""
    from huggingface_hub import HfApi

    from ..conversion.checkpoint import HYBRID

    try:
        found = HfApi().model_info(name, revision=revision)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"`--model_name_or_path` is {name!r}, which is no folder, and the Hub does not say at which commit "
            f"{revision or 'it'} stands: {error}\nGive a folder, or the commit with --model_revision."
        ) from error
    model_type = (found.config or {}).get("model_type", HYBRID)
    if model_type != HYBRID:
        raise UsageError(
            f"`--model_name_or_path` is {name!r}, a model of the type {model_type!r}. A Space shows both branches of a "
            "two-branch model."
        )
    return found.sha


if __name__ == "__main__":
    sys.exit(main())
