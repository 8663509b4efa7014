"""The notebook is one, and its cells run in order, with fewer steps than it says."""

import json
import os
import subprocess
import sys

import pytest

from .pages import ROOT


NOTEBOOK = ROOT / "docs" / "notebooks" / "miniature.ipynb"


def cells(kind: str) -> list[str]:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == kind]


def test_it_can_be_read():
    for code in cells("code"):
        compile(code, str(NOTEBOOK), "exec")
    assert cells("markdown")[0].startswith("# ")


@pytest.mark.slow
def test_it_runs(tmp_path):
    code = "\n".join(cells("code"))
    sizes = "base_steps=600, stage_steps=400, batch_size=32, rows=5000, test_rows=25"
    assert sizes in code
    code = code.replace(sizes, "base_steps=20, stage_steps=20, batch_size=8, rows=200, test_rows=1")
    env = {**os.environ, "MPLBACKEND": "agg", "PYTHONPATH": str(ROOT / "src"), "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    for printed in ("True True\n", "False True\n", "solutions:", "oracle", "modeling_metis_home.py"):
        assert printed in done.stdout, done.stdout
