"""A Gradio Space for a two-branch model: the app, its card, its requirements and example images."""

import re
import shutil
from pathlib import Path

from .._folders import staged_folder
from ..answers import format as answer_format
from .cards import hub_id, load_template


TEMPLATE = Path(__file__).with_name("space")
PARSER = Path(answer_format.__file__)
GRADIO = "6.31.0"  # the version that the app is tested with; the Space pins it
COMMIT = re.compile("[0-9a-f]{40}")


def write_space(
    model_name_or_path: str,
    output_dir: str | Path,
    *,
    revision: str | None = None,
    title: str | None = None,
    license: str | None = None,
) -> Path:
    """
    Write the folder of a Space for a model.

    Args:
        model_name_or_path (`str`):
            Hub id of a two-branch model, or a folder; with a folder, the Space only runs on this machine.
        output_dir (`str` or `Path`):
            Must not exist, or be empty.
        revision (`str`, *optional*):
            Commit of the Hub repository, 40 hexadecimal digits. Required for a Hub id, not allowed for a folder.
        title (`str`, *optional*):
            Title of the page; by default the model's name.
        license (`str`, *optional*):
            License identifier of the Space. Never assumed.

    Returns:
        `Path`: `output_dir`.

    Raises:
        FileExistsError: `output_dir` has content.
        ValueError: a model that is neither a folder nor a Hub id, or a revision that is not a commit.

    Example:

    ```python
    >>> from hf_metis_home.hub_templates import write_space

    >>> write_space("me/hybrid", "runs/space", revision="0123456789abcdef0123456789abcdef01234567")
    PosixPath('runs/space')
    ```
    """
    from huggingface_hub import SpaceCardData

    is_folder = Path(model_name_or_path).is_dir()
    if is_folder and revision is not None:
        raise ValueError(
            f"`revision` is {revision!r}, but {model_name_or_path!r} is a folder, without revisions. Drop it."
        )
    if not is_folder and hub_id(model_name_or_path) is None:
        raise ValueError(f"`model_name_or_path` is {model_name_or_path!r}, which is neither a folder nor a Hub id.")
    if not is_folder and not COMMIT.fullmatch(revision or ""):
        raise ValueError(
            f"`revision` is {revision!r}, but the Space runs code from {model_name_or_path!r} and must pin it to one "
            "commit. Pass its 40 hexadecimal digits, as shown on the repository's page."
        )
    model = None if is_folder else model_name_or_path
    title = title or Path(model_name_or_path).name
    source = model or str(Path(model_name_or_path).resolve())
    constants = {"MODEL": source, "REVISION": revision, "TITLE": title}
    metadata = SpaceCardData(
        title=title,
        emoji="🧭",
        colorFrom="indigo",
        colorTo="green",
        sdk="gradio",
        sdk_version=GRADIO,
        app_file="app.py",
        models=[model] if model else None,
        license=license,
        short_description="A model that thinks first or answers directly",
        tags=["metis-home", "hybrid-thinking"],
    )
    card = load_template("space_card.md.jinja").render(title=title, model=model, revision=revision, gradio=GRADIO)
    with staged_folder(output_dir) as staging:
        shutil.copytree(TEMPLATE, staging, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copyfile(PARSER, staging / "answer_format.py")
        app = staging / "app.py"
        app.write_text(fill_constants(app.read_text(encoding="utf-8"), constants), encoding="utf-8")
        (staging / "README.md").write_text(f"---\n{metadata.to_yaml()}\n---\n\n{card}", encoding="utf-8")
    return Path(output_dir)


def fill_constants(source: str, constants: dict[str, str | None]) -> str:
    """
    Replace constants in Python source, which are assigned as `NAME = literal` on their own lines.

    Values are written as Python literals, so that no text can become code.
    """
    for name, value in constants.items():
        text = f"{name} = {value!r}"
        source, count = re.subn(rf"^{name} = [^#\n]*?(?=  #|$)", lambda _: text, source, flags=re.M)  # noqa: B023
        assert count == 1, f"{name} is not assigned exactly once"
    return source
