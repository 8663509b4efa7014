"""
Counts lines of code, per package and in all: without docstrings, comments and blank lines.

    python scripts/code_lines.py
    python scripts/code_lines.py tests
"""

import ast
import io
import sys
import tokenize
from collections import Counter
from pathlib import Path


SOURCES = Path(__file__).parents[1] / "src" / "hf_metis_home"
NO_CODE = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)


def code_lines(source: str) -> int:
    """Lines of a Python source that hold code."""
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and ast.get_docstring(
            node
        ):
            docstrings.update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    lines = {line for token in tokens if token.type not in NO_CODE for line in range(token.start[0], token.end[0] + 1)}
    return len(lines - docstrings)


def count(folder: Path) -> Counter:
    """Lines of code per package of a folder; files beside the packages count as `.`."""
    lines: Counter = Counter()
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).parts
        lines[parts[0] if len(parts) > 1 else "."] += code_lines(path.read_text(encoding="utf-8"))
    return lines


def main() -> None:
    lines = count(Path(sys.argv[1]) if len(sys.argv) > 1 else SOURCES)
    for name, number in [*lines.items(), ("total", lines.total())]:
        print(f"{name:<16}{number:>7,}")


if __name__ == "__main__":
    main()
