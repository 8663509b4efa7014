"""The map of the code: every file it names exists, every folder is on it, in an order that imports follow."""

import ast
import re

import pytest

from .pages import ROOT


SOURCE = ROOT / "src" / "hf_metis_home"
PAGE = (ROOT / "docs" / "development" / "index.md").read_text(encoding="utf-8")
FOLDERS = re.findall(r"^\| `(\w+)/` \|", PAGE, re.M)


def test_every_file_exists():
    named = set(re.findall(r"`([\w/.]+(?:\.py|\.jinja|\.md|\.yml|/))`", PAGE))
    assert len(named) > 50
    missing = [name for name in named if not any((place / name).exists() for place in (SOURCE, ROOT))]
    assert set(missing) <= {"site/"}, missing  # `make docs` writes it


def test_every_folder_is_on_the_map():
    folders = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert set(FOLDERS) == folders and len(FOLDERS) == len(folders)


def test_every_shared_module_is_on_the_map():
    assert {path.name for path in SOURCE.glob("_*.py")} - {"__init__.py"} <= set(re.findall(r"`(\w+\.py)`", PAGE))


@pytest.mark.parametrize("folder", FOLDERS)
def test_lower_folders_never_import_upper_ones(folder):
    upper = set(FOLDERS[FOLDERS.index(folder) + 1 :])
    for path in (SOURCE / folder).rglob("*.py"):
        package = ["hf_metis_home", *path.relative_to(SOURCE).parts[:-1]]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                start = package[: len(package) - node.level + 1] if node.level else []
                modules = [".".join([*start, *filter(None, [node.module])])]
                modules += [f"{modules[0]}.{name.name}" for name in node.names]
            else:
                modules = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            for module in modules:
                if module.startswith("hf_metis_home."):
                    assert module.split(".")[1] not in upper, f"{path.relative_to(SOURCE)} imports {module}"
