"""A Gradio Space for a two-branch model: an app, its card, what it needs, and example images."""

import ast
import re
import shutil
from pathlib import Path

from .._folders import staged_folder
from ..answers import format as answer_format
from .cards import hub_id, load_template


TEMPLATE = Path(__file__).with_name("space")
PARSER = Path(answer_format.__file__)
GRADIO = "6.31.0"  # the version that the app is tested with, which the Space pins
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
    Write the folder of a Space that answers with a model.

    Args:
        model_name_or_path (`str`):
            Hub id of a two-branch model, or a folder, with which the Space runs on this machine only.
        output_dir (`str` or `Path`):
            Must not exist, or be empty.
        revision (`str`, *optional*):
            Commit of the Hub repository, 40 hexadecimal digits: required for a Hub id, refused for a folder.
        title (`str`, *optional*):
            Of the page; by default the model's name.
        license (`str`, *optional*):
            License identifier of the Space. Never assumed.

    Returns:
        `Path`: `output_dir`.

    Raises:
        FileExistsError: `output_dir` has content.
        ValueError: a model that is neither a folder nor a Hub id, or a revision that is no commit.

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
        raise ValueError(f"`revision` is {revision!r}, but {model_name_or_path!r} is a folder, which has none.")
    if not is_folder and hub_id(model_name_or_path) is None:
        raise ValueError(f"`model_name_or_path` is {model_name_or_path!r}, which is neither a folder nor a Hub id.")
    if not is_folder and not COMMIT.fullmatch(revision or ""):
        raise ValueError(
            f"`revision` is {revision!r}, but the Space runs the code of {model_name_or_path!r}, so it must be pinned "
            "to one commit: 40 hexadecimal digits, as on the repository's page."
        )
    model = None if is_folder else model_name_or_path
    title = title or Path(model_name_or_path).name
    constants = {
        "MODEL": model or str(Path(model_name_or_path).resolve()), "REVISION": revision, "TITLE": title,
    }  # fmt: skip
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
        short_description="A model that thinks first, or answers at once",
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
    Python source with other values for some of its constants, which stand as `NAME = literal` on lines of their own.

    Values are written as Python literals, and read back, so that no text can become code.
    """
    for name, value in constants.items():
        line = re.compile(rf"^{name} = [^#\n]*?(?=  #|$)", re.M)
        assert len(line.findall(source)) == 1, f"no line, or several, assign {name}"
        text = f"{name} = {value!r}"
        source = line.sub(lambda _: text, source)  # noqa: B023  called at once
    found = {
        getattr(node.targets[0], "id", None): ast.literal_eval(node.value)
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) in constants
    }
    assert found == constants, f"{found} was written for {constants}"
    return source
