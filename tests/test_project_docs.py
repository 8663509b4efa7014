"""README and docs: links lead somewhere, code compiles and uses names that exist, every public name is described."""

import ast
import re
from pathlib import Path

import pytest

import hf_metis_home


ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.is_file(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(file), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_python_blocks_use_names_that_exist(page):
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module == "hf_metis_home":
                assert {name.name for name in node.names} <= set(hf_metis_home.__all__)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_make_targets_exist(page):
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.M))
    blocks = "\n".join(re.findall(r"^```bash\n(.*?)^```", page.read_text(), re.M | re.S))
    assert set(re.findall(r"^make ([a-z-]+)", blocks, re.M)) <= targets


def test_every_public_name_is_described():
    text = "\n".join(page.read_text() for page in PAGES)
    missing = [name for name in hf_metis_home.__all__ if not re.search(rf"\b{name}\b", text)]
    assert missing == []


def test_every_page_is_in_the_navigation():
    listed = set(re.findall(r"^ +- .*: ([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M))
    assert listed == {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}


def test_features_name_tests_that_exist():
    named = set(re.findall(r"`((?:\.\./)?[\w/]+\.py)`", (ROOT / "docs" / "features.md").read_text()))
    assert len(named) > 10
    assert [name for name in named if not (ROOT / "tests" / "modeling" / name).resolve().is_file()] == []
