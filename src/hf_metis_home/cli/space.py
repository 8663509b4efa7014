"""
Write a Gradio Space for a two-branch model: an app with the dial, both branches side by side, and example images.

For a Hub repository, pinned to its newest commit:

    metis-home space --model_name_or_path OWNER/NAME --output_dir runs/space

Pinned to a given commit, without asking the Hub:

    metis-home space --model_name_or_path OWNER/NAME --output_dir runs/space \\
        --model_revision 0123456789abcdef0123456789abcdef01234567

For a folder, to run on this machine:

    metis-home space --model_name_or_path runs/demo/hybrid --output_dir runs/space
"""

import shlex
from dataclasses import dataclass
from pathlib import Path

from ._arguments import UsageError, flag
from ._run import verb


@dataclass
class SpaceArguments:
    model_name_or_path: str = flag("two-branch model: Hub id, or a folder on this machine")
    output_dir: str = flag("folder to write; must not exist or be empty")
    model_revision: str | None = flag("commit of the repository to pin the Space to (default: the newest)", None)
    title: str | None = flag("title of the page (default: the model's name)", None)
    license: str | None = flag("the Space's license, an identifier of the Hub", None)


@verb
def main(arguments: SpaceArguments) -> None:
    """Run `metis-home space`."""
    from .._folders import check_output_dir
    from ..hub_templates import write_space
    from ..hub_templates.spaces import COMMIT, GRADIO

    name, revision = arguments.model_name_or_path, arguments.model_revision
    check_output_dir(arguments.output_dir)
    is_folder = Path(name).is_dir()
    if is_folder:
        _check_folder(name)
    elif not COMMIT.fullmatch(revision or ""):
        revision = _newest_commit(name, revision)
    write_space(name, arguments.output_dir, revision=revision, title=arguments.title, license=arguments.license)
    pinned = "" if is_folder else f", pinned to {revision}"
    print(f"Wrote a Space for {name}{pinned}, to {arguments.output_dir}.")
    if is_folder:
        print("It only runs on this machine. Before publishing it, write it again with the model's Hub id.")
    app = shlex.quote(f"{arguments.output_dir}/app.py")
    print(f"Next: pip install gradio=={GRADIO}, run python {app}, and open the address that it prints.")


def _check_folder(name: str) -> None:
    from ..conversion.checkpoint import HYBRID, model_type_of

    if (found := model_type_of(name)) != HYBRID:
        what = "has no config.json" if found is None else f"holds a model of type {found!r}"
        raise UsageError(
            f"`--model_name_or_path` is {name!r}, which {what}. A Space needs a two-branch model. Create one with "
            "metis-home upcycle."
        )


def _newest_commit(name: str, revision: str | None) -> str:
    """The newest commit of a Hub repository's branch or tag, by default of its main branch."""
    from huggingface_hub import HfApi

    from ..conversion.checkpoint import HYBRID

    try:
        found = HfApi().model_info(name, revision=revision)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"`--model_name_or_path` is {name!r}, which is not a folder, and the Hub does not name its newest commit "
            f"of {revision or 'main'}: {error}\nGive a folder, or the commit with --model_revision."
        ) from error
    model_type = (found.config or {}).get("model_type", HYBRID)
    if model_type != HYBRID:
        raise UsageError(
            f"`--model_name_or_path` is {name!r}, a {model_type!r} model. A Space needs a two-branch model."
        )
    return found.sha


if __name__ == "__main__":
    raise SystemExit(main())
