"""What a release carries: every file in the wheel, what the tests read in the sdist, a citation that can be read."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import hf_metis_home
from scripts.release_check import files_of_the_package

from .pages import ROOT


builders = pytest.importorskip("hatchling.builders.wheel", reason="hatchling is not installed (extra `dev`)")


def test_the_wheel_has_every_file_of_the_package():
    builder = builders.WheelBuilder(str(ROOT))
    found = {file.distribution_path for file in builder.recurse_included_files()}
    assert found == files_of_the_package()
    # What is not Python is what a wrong setting leaves out.
    names = {Path(name).name for name in found}
    assert {"py.typed", "model_card.md.jinja", "mathvista.yaml", "report.html.jinja", "zero3.yaml"} <= names


def test_the_sdist_has_what_the_tests_read():
    from hatchling.builders.sdist import SdistBuilder

    found = {file.distribution_path.split("/", 1)[0] for file in SdistBuilder(str(ROOT)).recurse_included_files()}
    tracked = {"src", "tests", "docs", "examples", "recipes", "benchmarks", "scripts", ".ci"}
    tracked |= {"Makefile", "mkdocs.yml", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "CITATION.cff"}
    assert tracked <= found and not found & {".venv", "runs", "site", "dist"}


def test_citation():
    """The rules of the Citation File Format 1.2.0 for what stands in the file."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys() and citation["cff-version"] == "1.2.0"
    assert citation["type"] == "software" and citation["license"] == "Apache-2.0"
    article = citation["preferred-citation"]
    assert {"type", "title", "authors"} <= article.keys() and article["type"] == "article"
    for author in citation["authors"] + article["authors"]:
        assert author.keys() <= {"name", "given-names", "family-names", "orcid", "affiliation", "alias"} and author
    assert "2510.20519" in article["url"] and isinstance(article["year"], int)


def test_changelog_and_version_agree():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[(.+?)\]", changelog, re.M)
    assert headings[0] == "Unreleased"
    released = hf_metis_home.__version__.partition(".dev")[0]
    assert ".dev" in hf_metis_home.__version__ or headings[1] == released


def test_supported_transformers_are_those_of_the_metadata():
    page = (ROOT / "docs" / "development" / "releasing.md").read_text(encoding="utf-8")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for library in ("transformers", "trl", "torch", "peft"):
        [requirement] = re.findall(rf'"({library}>=[^"]*)"', project)
        assert f"`{requirement}`" in page


@pytest.mark.slow
def test_release_check():
    done = subprocess.run([sys.executable, ROOT / "scripts" / "release_check.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "figures mean nothing" in done.stdout and "The release can be made" in done.stdout
