"""
Write a Gradio Space for a two-branch model: an app with the threshold, both branches side by side, and example images.

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
    from ..conversion.checkpoint import HYBRID, model_type_of
    from ..hub_templates import write_space
    from ..hub_templates.space_folder import COMMIT, GRADIO

    name, revision, model_type = arguments.model_name_or_path, arguments.model_revision, HYBRID
    check_output_dir(arguments.output_dir)
    is_folder = Path(name).is_dir()
    if is_folder:
        model_type = model_type_of(name)
    elif not COMMIT.fullmatch(revision or ""):
        found = _on_the_hub(name, revision)
        revision, model_type = found.sha, (found.config or {}).get("model_type", HYBRID)
    if model_type != HYBRID:
        what = "has no config.json" if model_type is None else f"is a {model_type!r} model"
        raise UsageError(
            f"`--model_name_or_path` is {name!r}, which {what}. A Space needs a two-branch model. Create one with "
            "metis-home upcycle."
        )
    write_space(name, arguments.output_dir, revision=revision, title=arguments.title, license=arguments.license)
    pinned = "" if is_folder else f", pinned to {revision}"
    print(f"Wrote a Space for {name}{pinned}, to {arguments.output_dir}.")
    if is_folder:
        print("It only runs on this machine. Before publishing it, write it again with the model's Hub id.")
    app = shlex.quote(f"{arguments.output_dir}/app.py")
    print(f"Next: pip install gradio=={GRADIO}, run python {app}, and open the address that it prints.")


def _on_the_hub(name: str, revision: str | None):
    """What the Hub knows about a repository's branch or tag, by default about its main branch."""
    from huggingface_hub import HfApi

    try:
        return HfApi().model_info(name, revision=revision)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"`--model_name_or_path` is {name!r}, which is not a folder, and the Hub does not name its newest commit "
            f"of {revision or 'main'}: {error}\nGive a folder, or the commit with --model_revision."
        ) from error


if __name__ == "__main__":
    raise SystemExit(main())
