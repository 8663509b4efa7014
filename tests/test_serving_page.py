"""The page about serving: its exports run, its Python serves, its names are those of the code."""

import re
import shlex
from pathlib import Path

import httpx
import pytest

from hf_metis_home.cli import main
from hf_metis_home.serving import router_worker
from hf_metis_home.serving.metrics import COUNTERS
from hf_metis_home.serving.middleware import PASSED, ROUTED

from .serving.common import CHAT, Engine, make_hybrid, served


PAGE = (Path(__file__).parents[1] / "docs" / "serving.md").read_text()
COMMANDS = "".join(re.findall(r"^```bash\n(.*?)^```", PAGE, re.M | re.S)).replace("\\\n", "").splitlines()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("page")
    (place / "runs" / "demo").mkdir(parents=True)
    make_hybrid(place / "runs" / "demo" / "hybrid")
    return place


def test_commands_of_the_page(place, monkeypatch, capsys):
    """Exports are run. `serve` is run by `tests/serving/test_serve.py`; here its flags are read."""
    monkeypatch.chdir(place)
    for command in COMMANDS:
        program, *words = shlex.split(command)
        if program == "metis-home" and words[0] == "export":
            assert main(words) == 0, command
            assert Path(words[words.index("--output_dir") + 1], "README.md").is_file()
        elif program == "metis-home":
            from hf_metis_home.cli._arguments import parse_arguments
            from hf_metis_home.cli.serve import ServeArguments

            assert words[0] == "serve" and parse_arguments(ServeArguments, words[1:], "", "").port == 8000
        else:
            assert program == "curl"
    assert len(COMMANDS) == 7


def test_the_proxy_of_the_page(place, monkeypatch):
    """Its Python, with engines on other ports and without blocking."""
    import uvicorn

    monkeypatch.chdir(place)
    [block] = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    engines, apps = {"8001": Engine(), "8002": Engine()}, []
    monkeypatch.setattr(uvicorn, "run", lambda app, **_: apps.append(app))
    with served(engines["8001"]) as one, served(engines["8002"]) as two:
        exec(block.replace("http://127.0.0.1:8001", one).replace("http://127.0.0.1:8002", two), {})
        with served(apps[0]) as url:
            [curl] = [shlex.split(command) for command in COMMANDS if command.startswith("curl")]
            body = curl[curl.index("-d") + 1]
            reply = httpx.post(url + CHAT, content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code == 200 and reply.headers["x-metis-source"] == "router"
    assert reply.json()["model"] == f"runs/{reply.headers['x-metis-branch'].replace('_', '-')}"
    assert len(engines["8001"].bodies) + len(engines["8002"].bodies) == 1


def test_names_of_the_page():
    for name in (*COUNTERS, *ROUTED, *PASSED):
        assert name in PAGE
    reasons = set(re.findall(r'RouterUnavailable\("(\w+)"\)', Path(router_worker.__file__).read_text()))
    [row] = re.findall(r"`metis_home_fallbacks_total` \| `reason`: (.*) \|", PAGE)
    assert set(re.findall(r"`(\w+)`", row)) == reasons
