"""Progress where there is no terminal: a line every so often, and nothing after the work."""

import subprocess
import sys
import time

from hf_metis_home import _progress
from hf_metis_home._versions import versions


SLOW = """
import time
from hf_metis_home import _progress
_progress.SECONDS = 0.2
with _progress.progress("Copying", 4e6, "bytes") as advance:
    advance(1e6)
    time.sleep(0.5)
"""


def test_a_pipe_gets_lines():
    run = subprocess.run([sys.executable, "-c", SLOW], capture_output=True, text=True, check=True)
    assert run.stdout == "" and run.stderr.splitlines()[0] == "Copying: 1 of 4 MB"
    assert 1 <= len(run.stderr.splitlines()) <= 3


def test_short_work_says_nothing(capsys, monkeypatch):
    monkeypatch.setattr(_progress, "SECONDS", 0.05)
    with _progress.progress("Answering", total=2) as advance:
        advance(2)
    time.sleep(0.15)
    assert capsys.readouterr() == ("", "")


def test_versions_are_those_of_what_is_installed():
    import torch

    assert versions()["torch"] == torch.__version__.partition("+")[0] or versions()["torch"] == torch.__version__
    assert versions()["python"].startswith("3.") and "vllm-not-there" not in versions()
