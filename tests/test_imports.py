"""The floors of the house: no folder imports one above it, no file imports in a circle, no file reads another's."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from .pages import ROOT


PACKAGE = ROOT / "src" / "hf_metis_home"
FLOORS = (
    "modeling",
    "answers",
    "hub_templates",
    "data",
    "conversion",
    "miniature",
    "tasks",
    "rewards",
    "evaluation",
    "trainers",
    "reports",
    "serving",
    "publishing",
    "demo",
    "cli",
)


def imported(path: Path, package: Path = PACKAGE) -> Iterator[tuple[str, ...]]:
    """What a file imports of the package, wherever in the file: the parts of each dotted name below the package."""
    here = path.relative_to(package).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            module = tuple(node.module.split(".")) if node.module else ()
            if node.level:
                module = (*here[: len(here) - node.level + 1], *module)
            elif module[:1] == ("hf_metis_home",):
                module = module[1:]
            else:
                continue
            yield from ((*module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            names = (alias.name.split(".") for alias in node.names)
            yield from (tuple(name[1:]) for name in names if name[0] == "hf_metis_home")


def file_of(name: tuple[str, ...], package: Path = PACKAGE) -> Path | None:
    """The file that an imported name is in: a module, or the package whose `__init__` exports it."""
    for parts in (name, name[:-1]):
        for path in (package.joinpath(*parts).with_suffix(".py"), package.joinpath(*parts, "__init__.py")):
            if parts and path.is_file():
                return path
    return None


def upward(package: Path = PACKAGE) -> list[str]:
    """Imports that lead from a folder to one above it."""
    found = []
    for path in sorted(package.rglob("*.py")):
        floor = path.relative_to(package).parts[0]
        if floor not in FLOORS:
            continue
        for name in imported(path, package):
            if name[0] in FLOORS and FLOORS.index(name[0]) > FLOORS.index(floor):
                found.append(f"{path.relative_to(package)} imports {'.'.join(name)}")
    return found


def graph(package: Path = PACKAGE) -> dict[Path, set[Path]]:
    files = sorted(package.rglob("*.py"))
    return {path: {file_of(name, package) for name in imported(path, package)} - {None, path} for path in files}


def test_every_folder_has_its_floor():
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders == set(FLOORS)


def test_nothing_is_imported_from_above():
    assert upward() == []


def test_no_circle():
    try:
        tuple(TopologicalSorter(graph()).static_order())
    except CycleError as error:
        pytest.fail("a circle: " + " -> ".join(str(path.relative_to(PACKAGE)) for path in error.args[1]))


def test_no_file_is_read_from_another_folder():
    """
    By path; `Path(module.__file__)` of an imported module is an import, which the tests above see. The one that
    climbs tells which errors are the package's own.
    """
    climbing = [path for path in PACKAGE.rglob("*.py") if "__file__).parents" in path.read_text(encoding="utf-8")]
    assert [path.relative_to(PACKAGE).as_posix() for path in climbing] == ["cli/_run.py"]


def test_what_these_tests_would_see(tmp_path):
    """An import upwards and a circle, each in the three ways to write them."""
    for name, text in {
        "answers/format.py": "def parse():\n    from ..cli import main\n",
        "modeling/a.py": "from hf_metis_home.data import rows\n",
        "data/__init__.py": "",
        "data/rows.py": "import hf_metis_home.modeling.a\n",
        "cli/__init__.py": "def main(): ...\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert upward(tmp_path) == ["answers/format.py imports cli.main", "modeling/a.py imports data.rows"]
    with pytest.raises(CycleError):
        tuple(TopologicalSorter(graph(tmp_path)).static_order())
