"""
The code blocks of the documentation.

A page's test takes what it runs from [`blocks`]; `test_pages.py` demands that somebody does for every block, or that a
comment before it says why nobody can:

    <!-- not run: needs a GPU and a 3B checkpoint -->

    ```bash
    accelerate launch ...
    ```
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path


ROOT = Path(__file__).parents[1]
RUNNABLE = ("python", "bash", "sh", "yaml", "json")
BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^>]*?) -->\n+)?^ *```(?P<language>\w+)[^\n]*\n(?P<code>.*?)^ *```$", re.M | re.S
)


@dataclass(frozen=True)
class Block:
    page: str  # from the top of the repository
    language: str
    code: str
    reason: str | None  # why it is not run


def all_pages() -> list[str]:
    """Every page that people write; `docs/api` is made from docstrings."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [path.relative_to(ROOT).as_posix() for path in found if path.parent.name != "api"]


def all_blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return [Block(page, found["language"], found["code"], found["reason"]) for found in BLOCK.finditer(text)]


def blocks(page: str, language: str) -> list[str]:
    """The code of a page's blocks that are to be run."""
    return [block.code for block in all_blocks(page) if block.language == language and block.reason is None]


def commands(page: str, language: str = "bash") -> list[list[str]]:
    """The lines of a page's blocks that are to be run, as words; lines that end in a backslash go on."""
    return [words for code in blocks(page, language) for words in split_commands(code)]


def split_commands(code: str) -> list[list[str]]:
    lines = code.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]
