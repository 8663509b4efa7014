"""The project's own files agree with each other."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

import hf_metis_home
from hf_metis_home._extras import require_extra


ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def test_extras():
    assert set(EXTRAS) == {"train", "demo", "eval", "serve", "space", "flash", "docs", "dev"}
    assert not any("vllm" in requirement for requirements in EXTRAS.values() for requirement in requirements)


def test_only_trl_has_an_upper_bound():
    requirements = PROJECT["dependencies"] + [line for extra in EXTRAS.values() for line in extra]
    bounded = [requirement for requirement in requirements if re.search(r"[<=~]=|<", requirement.replace(">=", ""))]
    assert bounded == ["trl>=1.16,<1.17"]


def test_make_installs_every_extra_but_flash():
    installed = re.search(r"^EXTRAS := (.*)$", (ROOT / "Makefile").read_text(), re.M).group(1).split(",")
    assert set(installed) == set(EXTRAS) - {"flash"}


def test_readme_and_makefile_install_the_same():
    extras = re.search(r"^EXTRAS := (.*)$", (ROOT / "Makefile").read_text(), re.M).group(1)
    assert f"'.[{extras}]'" in (ROOT / "README.md").read_text()


def test_make_lists_its_targets():
    listed = subprocess.run(["make", "-C", ROOT], capture_output=True, text=True, check=True).stdout
    for target in ("help", "demo", "test", "test-all", "lint", "format"):
        assert f"make {target} " in listed


def test_ci_runs_the_readme_command():
    script = (ROOT / ".ci" / "run").read_text()
    assert "make test\n" in script and "set -euo pipefail" in script
    assert "make test\n" in (ROOT / "README.md").read_text()
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


@pytest.mark.parametrize("name", [name for name in hf_metis_home.__all__ if name != "__version__"])
def test_every_exported_name_exists(name):
    assert getattr(hf_metis_home, name).__name__ == name


def test_names_that_do_not_exist():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = hf_metis_home.nothing


def test_missing_extra_is_named():
    require_extra("train", "json")
    with pytest.raises(ImportError, match=r"nowhere_a, nowhere_b are not installed.*'hf-metis-home\[demo\]'"):
        require_extra("demo", "json", "nowhere_a", "nowhere_b")
