"""What README, quickstart and model card tell a reader to run does run, on a tiny model and where nobody can answer."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from hf_metis_home.cli import main
from hf_metis_home.conversion import save_hub_folder, upcycle

from .conversion.common import save_dense
from .fixtures_text import tiny_word_level
from .pages import ROOT, blocks, commands


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working directory with the files that the examples name."""
    folder = tmp_path_factory.mktemp("reader")
    dense, processor = tiny_word_level()
    hybrid = upcycle(dense, processor)
    for name in ("runs/demo/hybrid", "runs/hybrid-3b", "me/hybrid"):
        save_hub_folder(hybrid, processor, folder / name, model_id="me/hybrid")
    for name in ("runs/demo/digits.png", "picture.png"):
        Image.new("RGB", (56, 56), (200, 30, 30)).save(folder / name)
    return folder


CPU = ("SFTConfig(output_dir", "SFTConfig(use_cpu=True, bf16=False, output_dir")


def scripts(folder: Path) -> dict[str, list[str]]:
    """The Python blocks of every page."""
    # What it tells a reader without a GPU to add.
    assert "`use_cpu=True, bf16=False`" in (ROOT / "docs" / "quickstart.md").read_text()
    return {
        "card": re.findall(r"^```python\n(.*?)^```", (folder / "me/hybrid/README.md").read_text(), re.M | re.S),
        "readme": blocks("README.md", "python"),
        "quickstart": [code.replace(*CPU) for code in blocks("docs/quickstart.md", "python")],
    }


# Importing takes longer than any page, so one process runs them all, each as a script of its own.
RUN = """
import contextlib, io, json, sys
printed = {}
for page, script in json.loads(open(sys.argv[1]).read()).items():
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(script, page, "exec"), {"__name__": "__main__"})
    printed[page] = out.getvalue()
open(sys.argv[2], "w").write(json.dumps(printed))
"""


@pytest.fixture(scope="module")
def printed(folder) -> dict[str, str]:
    """Standard output of all Python blocks of a page, run in order as one script that has no terminal."""
    (folder / "scripts.json").write_text(json.dumps({page: "\n".join(code) for page, code in scripts(folder).items()}))
    command = [sys.executable, "-W", "error::SyntaxWarning", "-c", RUN, "scripts.json", "printed.json"]
    environment = {**os.environ, "HF_HOME": str(folder / "cache")}
    done = subprocess.run(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "[y/N]" not in done.stdout + done.stderr
    assert "instantiate a model of type" not in done.stderr
    return json.loads((folder / "printed.json").read_text())


def test_readme(printed):
    assert "tensor([0.5000])" in printed["readme"]
    assert printed["readme"].count("which digit is at the top left") == 3


def test_quickstart(printed, folder):
    assert (folder / "runs" / "hybrid-3b-sft" / "model.safetensors").is_file()


def test_model_card(printed):
    assert printed["card"]


def test_commands(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_dense(Path("Qwen/Qwen2.5-VL-3B-Instruct"))
    Path("runs").mkdir()
    shutil.copytree(folder / "runs/demo", "runs/demo")
    found = commands("README.md") + commands("docs/quickstart.md")
    assert [words[1] for words in found] == ["chat", "upcycle", "eval", "card", "push", "upcycle"]
    for program, *words in found:
        words += ["--limit", "1"] if words[0] == "eval" else []  # all of them take minutes
        words += ["--max_new_tokens", "4"] if words[0] in ("chat", "eval") else []
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"why?\n/quit\n"), encoding="utf-8"))
        assert program == "metis-home" and main(words) == 0, words
        if "--output_dir" not in words:
            continue
        written = Path(words[words.index("--output_dir") + 1])
        assert any((written / name).is_file() for name in ("model.safetensors", "report.html"))
        shutil.move(
            written, tmp_path / f"moved-{written.name}-{len(list(tmp_path.iterdir()))}"
        )  # both pages write there
