"""What must mean the same everywhere is written once."""

import re
from pathlib import Path

import hf_metis_home
from hf_metis_home.modeling.configuration_metis_home import BRANCHES


SOURCES = sorted(Path(hf_metis_home.__file__).parent.rglob("*.py"))
PACKAGE = Path(hf_metis_home.__file__).parent


def lines_with(pattern: str) -> list[str]:
    found = re.compile(pattern)
    return [
        f"{path.relative_to(PACKAGE)}: {line.strip()}"
        for path in SOURCES
        for line in path.read_text(encoding="utf-8").splitlines()
        if found.search(line)
    ]


def test_one_comparison_of_a_probability_with_a_threshold():
    # The opposite question, whether it is below, is the same comparison.
    assert lines_with(r"(>=|<) *[\w.(]*threshold") == [
        "modeling/router_metis_home.py: return probability.float() >= threshold"
    ]


def test_one_order_of_the_branches():
    assert BRANCHES == ("thinking", "non_thinking")
    assert lines_with(r"= *[(\[]\"(non_)?thinking\", \"(non_)?thinking\"[)\]]") == [
        'modeling/configuration_metis_home.py: BRANCHES = ("thinking", "non_thinking")'
    ]
