"""The folder of a Space: what is written, and that nothing in it can become code or markup by accident."""

import ast
import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from PIL import Image

from hf_metis_home.cli import main
from hf_metis_home.hub_templates import write_space
from hf_metis_home.hub_templates.space_folder import GRADIO, TEMPLATE, fill_constants


COMMIT = "0123456789abcdef0123456789abcdef01234567"
# https://huggingface.co/docs/hub/spaces-config-reference
COLORS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
FILES = {"app.py", "answer_format.py", "README.md", "requirements.txt", "examples"}
ROOT = Path(__file__).parents[2]


def metadata_of(folder: Path) -> dict:
    return yaml.safe_load((folder / "README.md").read_text("utf-8").split("---\n")[1])


def constants_of(folder: Path) -> dict:
    body = ast.parse((folder / "app.py").read_text("utf-8")).body
    assigned = {node.targets[0].id: node.value for node in body if isinstance(node, ast.Assign)
                and isinstance(node.targets[0], ast.Name)}  # fmt: skip
    return {name: ast.literal_eval(assigned[name]) for name in ("MODEL", "REVISION", "TITLE")}


def test_the_folder(tmp_path):
    assert write_space("me/hybrid", tmp_path / "space", revision=COMMIT, license="mit") == tmp_path / "space"
    assert {path.name for path in (tmp_path / "space").iterdir()} == FILES
    assert constants_of(tmp_path / "space") == {"MODEL": "me/hybrid", "REVISION": COMMIT, "TITLE": "hybrid"}
    app = (tmp_path / "space" / "app.py").read_text("utf-8")
    assert app.replace("'me/hybrid'", '"OWNER/NAME"').replace(f"REVISION = '{COMMIT}'", "REVISION = None").replace(
        "'hybrid'\n", '"Hybrid thinking"\n'
    ) == (TEMPLATE / "app.py").read_text("utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["space"]


def test_front_matter(tmp_path):
    found = metadata_of(write_space("me/hybrid", tmp_path / "space", revision=COMMIT, license="mit"))
    assert found["sdk"] == "gradio" and found["sdk_version"] == GRADIO and found["app_file"] == "app.py"
    assert found["models"] == ["me/hybrid"] and found["license"] == "mit"
    assert {found["colorFrom"], found["colorTo"]} <= COLORS and len(found["emoji"]) == 1
    assert len(found["short_description"]) <= 60
    plain = metadata_of(write_space("me/hybrid", tmp_path / "plain", revision=COMMIT))
    assert "license" not in plain
    assert f"https://huggingface.co/me/hybrid/tree/{COMMIT}" in (tmp_path / "plain" / "README.md").read_text("utf-8")


def test_a_folder_of_this_machine(tmp_path):
    (tmp_path / "my model").mkdir()
    written = write_space(str(tmp_path / "my model"), tmp_path / "space")
    assert constants_of(written) == {"MODEL": str(tmp_path / "my model"), "REVISION": None, "TITLE": "my model"}
    assert "models" not in metadata_of(written)
    text = (written / "README.md").read_text("utf-8")
    assert "only runs on the machine" in text and str(tmp_path) not in text


HOSTILE = ['"; import os; os.abort() #', "'''\\", "a\nb", "\u2028line", "{{ 7 * 7 }}", "a: b # c", "<b>x</b>", "é中"]


@pytest.mark.parametrize("title", HOSTILE)
def test_no_text_becomes_code(tmp_path, title):
    written = write_space("me/hybrid", tmp_path / "space", revision=COMMIT, title=title)
    assert constants_of(written)["TITLE"] == title and metadata_of(written)["title"] == title
    before = [type(node) for node in ast.parse((TEMPLATE / "app.py").read_text("utf-8")).body]
    assert [type(node) for node in ast.parse((written / "app.py").read_text("utf-8")).body] == before
    assert "<b>" not in (written / "README.md").read_text("utf-8").split("---\n", 2)[2]


def test_a_constant_that_is_not_there():
    with pytest.raises(AssertionError, match="NAME is not assigned exactly once"):
        fill_constants("OTHER = 1\n", {"NAME": "x"})


@pytest.mark.parametrize(
    ("name", "revision", "message"),
    [
        ("me/hybrid", None, "`revision` is None, but the Space runs code from 'me/hybrid' and must pin it"),
        ("me/hybrid", "main", "`revision` is 'main'"),
        ("me/hybrid", COMMIT[:-1], "40 hexadecimal digits"),
        ("me/hybrid", COMMIT + "0", "40 hexadecimal digits"),
        ("not a name", COMMIT, "`model_name_or_path` is 'not a name', which is neither a folder nor a Hub id"),
        (".", COMMIT, "'.' is a folder, without revisions"),
    ],
)
def test_refusals(tmp_path, name, revision, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        write_space(name, tmp_path / "space", revision=revision)
    assert not (tmp_path / "space").exists()


def test_nothing_is_overwritten(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    flags = ["--model_name_or_path", "me/hybrid", "--model_revision", COMMIT, "--output_dir", str(tmp_path)]
    assert main(["space", *flags]) == 2
    assert "`output_dir`" in capsys.readouterr().err and [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_command(tmp_path, capsys):
    out = tmp_path / "space"
    flags = ["--model_name_or_path", "me/hybrid", "--model_revision", COMMIT, "--output_dir", str(out)]
    assert main(["space", *flags, "--title", "Mine"]) == 0
    printed = capsys.readouterr().out
    assert f"Wrote a Space for me/hybrid, pinned to {COMMIT}" in printed and f"python {out}/app.py" in printed
    assert constants_of(out)["TITLE"] == "Mine"


def test_the_newest_commit_is_asked_for(tmp_path, monkeypatch, capsys):
    import huggingface_hub

    asked = []

    class Info:
        sha, config = COMMIT, {"model_type": "metis_home"}

    def model_info(self, name, revision=None):
        asked.append((name, revision))
        return Info

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    for number, more in enumerate(([], ["--model_revision", "v1"])):
        flags = ["--model_name_or_path", "me/hybrid", "--output_dir", str(tmp_path / str(number)), *more]
        assert main(["space", *flags]) == 0
        assert constants_of(tmp_path / str(number))["REVISION"] == COMMIT
    assert asked == [("me/hybrid", None), ("me/hybrid", "v1")]
    Info.config = {"model_type": "qwen2_5_vl"}
    assert main(["space", "--model_name_or_path", "me/dense", "--output_dir", str(tmp_path / "dense")]) == 2
    assert "which is a 'qwen2_5_vl' model" in capsys.readouterr().err


def test_offline_the_commit_has_to_be_named(tmp_path, capsys):
    assert main(["space", "--model_name_or_path", "me/hybrid", "--output_dir", str(tmp_path / "space")]) == 2
    printed = capsys.readouterr().err
    assert "the Hub does not name its newest commit" in printed and "or the commit with --model_revision" in printed


@pytest.mark.parametrize("config", [None, {"model_type": "qwen2_5_vl"}])
def test_only_two_branch_models(tmp_path, capsys, config):
    (tmp_path / "model").mkdir()
    if config:
        (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    flags = ["--model_name_or_path", str(tmp_path / "model"), "--output_dir", str(tmp_path / "space")]
    assert main(["space", *flags]) == 2
    assert "Create one with metis-home upcycle" in capsys.readouterr().err and not (tmp_path / "space").exists()


def test_requirements_are_the_package_s_own():
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = (TEMPLATE / "requirements.txt").read_text().split()
    assert set(needed) <= set(stated["dependencies"])
    [gradio] = stated["optional-dependencies"]["space"]
    assert int(gradio.removeprefix("gradio>=").split(".")[0]) == int(GRADIO.split(".")[0])


def test_the_code_of_a_space_runs_on_the_python_of_spaces():
    """3.10, unless the card says otherwise."""
    package = ROOT / "src" / "hf_metis_home"
    for path in [
        TEMPLATE / "app.py",
        package / "answers" / "format.py",
        *(package / "modeling").glob("*_metis_home.py"),
    ]:
        ast.parse(path.read_text("utf-8"), feature_version=(3, 10))


def test_example_images():
    questions = ast.literal_eval(
        next(
            node.value
            for node in ast.parse((TEMPLATE / "app.py").read_text("utf-8")).body
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "QUESTIONS"
        )
    )
    assert set(questions) == {path.name for path in (TEMPLATE / "examples").iterdir()} and len(questions) >= 3
    for name in questions:
        with Image.open(TEMPLATE / "examples" / name) as image:
            assert image.format == "PNG" and min(image.size) >= 300
        assert (TEMPLATE / "examples" / name).stat().st_size < 20_000
