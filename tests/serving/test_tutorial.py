"""The tutorial of serving: every block in its order, against the server that its first command starts."""

import signal
import subprocess
from pathlib import Path

import httpx
import pytest

from ..pages import all_blocks, split_commands
from .common import free_port, make_hybrid, process, wait_until


@pytest.mark.slow
def test_serving_tutorial(tmp_path, monkeypatch, capsys):
    pytest.importorskip("openai", reason="`transformers serve` needs it: pip install openai, or make install")
    monkeypatch.chdir(tmp_path)
    Path("runs/demo").mkdir(parents=True)
    make_hybrid(Path("runs/demo/hybrid"))
    port, log = free_port(), Path("log").open("w+")
    blocks = [block for block in all_blocks("docs/tutorials/serving.md") if block.reason is None]
    code = [(block.language, block.code.replace("8000", str(port))) for block in blocks]
    [serve], *curls = [split_commands(text) for language, text in code if language == "bash"]
    assert serve[:2] == ["metis-home", "serve"] and {words[0] for [words] in curls} == {"curl"} and len(curls) == 3

    printed = []
    with process(["-m", "hf_metis_home.cli", *serve[1:]], stdout=log, stderr=subprocess.STDOUT) as running:
        wait_until(lambda: "Ctrl-C stops." in Path("log").read_text() or running.poll() is not None, 400)
        said = Path("log").read_text()
        assert running.poll() is None and blocks[1].code.replace("8000", str(port)) in said, said
        for language, text in code[2:]:
            if language == "python":
                exec(text, {})
                printed.append(capsys.readouterr().out)
            elif language == "bash":
                [words] = split_commands(text)
                printed.append(subprocess.run([words[0], "-s", *words[1:]], capture_output=True, text=True).stdout)
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 0
    models, _, asked, dial, by_openai, streamed, metrics = printed
    assert all(f'"{name}"' in models for name in ("hybrid", "auto", "thinking", "non_thinking"))
    headers = {line.split(":")[0] for line in asked.splitlines()}
    assert {line.split(":")[0] for line in blocks[5].code.splitlines()} <= headers and "200 OK" in asked
    rows = [line.replace(",", " ").replace(": ", " ").split() for line in dial.splitlines()]
    assert [row[0] for row in rows] == ["auto", "auto:0.35", "auto:1", "thinking", "non_thinking"]
    assert [row[1] for row in rows[3:]] == ["thinking", "non_thinking"]
    branch, _, text = by_openai.rstrip("\n").partition(" ")
    assert streamed.splitlines()[0] == f"[{branch}]" and streamed.partition("]\n")[2].rstrip("\n") == text
    assert "metis_home_requests_total" in metrics and "metis_home_router_seconds_total" in metrics
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/health")
