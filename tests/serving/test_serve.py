"""`metis-home serve`: the real `transformers serve` behind the router, and vLLM's command line."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from transformers import AutoProcessor

from hf_metis_home.cli import main
from hf_metis_home.modeling import MetisHomeForConditionalGeneration
from hf_metis_home.serving import launch

from .common import CHAT, Engine, chat, data_url, free_port, image_part, picture, process, served, wait_until


def serve(folder, *flags):
    """`metis-home serve` in a process of its own, its output in a file."""
    log = (folder.parent / "serve.log").open("w+")
    command = ["-m", "hf_metis_home.cli.serve", "--model_name_or_path", str(folder), *map(str, flags)]
    return process(command, cwd=folder.parent, stdout=log, stderr=subprocess.STDOUT), Path(log.name)


@pytest.mark.slow
def test_transformers_serve_end_to_end(hybrid_folder):
    pytest.importorskip("openai", reason="`transformers serve` needs it: pip install openai, or make install")
    port = free_port()
    started, log = serve(
        hybrid_folder, "--port", port, "--served_model_name", "my-hybrid", "--engine_args=--device cpu"
    )
    model = MetisHomeForConditionalGeneration.from_pretrained(hybrid_folder).eval()
    processor = AutoProcessor.from_pretrained(hybrid_folder)
    url = f"http://127.0.0.1:{port}"

    def expected(content, **arguments):
        content = [{"type": "text", "text": content}] if isinstance(content, str) else content
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True,
            return_tensors="pt", **arguments.pop("template", {}),
        )  # fmt: skip
        tokens = model.generate(**inputs, max_new_tokens=12, do_sample=False, **arguments)
        text = processor.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return text, model.route(**inputs).thinking_probability.item()

    def ask(*parts, **fields):
        reply = httpx.post(url + CHAT, json=chat(*parts, max_tokens=12, temperature=0.0, **fields), timeout=120)
        assert reply.status_code == 200, reply.text
        return reply

    with started as running:
        wait_until(lambda: "Ctrl-C stops." in log.read_text() or running.poll() is not None, 240)
        assert running.poll() is None, log.read_text()
        image = data_url(picture())
        question = "which digit is at the top left?"
        for parts, content in (
            ([question], question),
            ([image_part(image), question], [{"type": "image", "url": image}, {"type": "text", "text": question}]),
        ):
            texts = {}
            for branch in ("thinking", "non_thinking"):
                texts[branch], probability = expected(content, thinking=branch == "thinking")
                reply = ask(*parts, model=branch)
                assert reply.json()["choices"][0]["message"]["content"] == texts[branch]
                assert reply.headers["x-metis-branch"] == branch
            assert texts["thinking"] != texts["non_thinking"]
            for threshold, branch in ((probability - 1e-3, "thinking"), (probability + 1e-3, "non_thinking")):
                reply = ask(*parts, model=f"auto:{threshold:.5f}")
                assert reply.headers["x-metis-branch"] == branch and reply.headers["x-metis-source"] == "router"
                assert float(reply.headers["x-metis-thinking-probability"]) == pytest.approx(probability, abs=1e-4)
                assert reply.json()["choices"][0]["message"]["content"] == texts[branch]
        for enabled in (True, False):
            kwargs = {"enable_thinking": enabled}
            text, _ = expected(question, template=kwargs)
            assert ask(question, chat_template_kwargs=kwargs).json()["choices"][0]["message"]["content"] == text
        with httpx.stream(
            "POST", url + CHAT, json=chat(question, model="thinking", stream=True, max_tokens=12, temperature=0.0),
            timeout=120,
        ) as stream:  # fmt: skip
            lines = [json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: {")]
        streamed = "".join(line["choices"][0]["delta"].get("content") or "" for line in lines)
        assert streamed == expected(question, thinking=True)[0]
        long = httpx.post(url + CHAT, json=chat(question, model="thinking", temperature=0.0), timeout=300).json()
        assert long["usage"]["completion_tokens"] > 20 or long["choices"][0]["finish_reason"] == "stop"
        assert str(hybrid_folder.parent) not in json.dumps(long)  # says nothing of this disk
        names = [each["id"] for each in httpx.get(url + "/v1/models").json()["data"]]
        assert names == ["my-hybrid", "auto", "thinking", "non_thinking"]
        assert httpx.post(url + "/reset").status_code == 404
        engine = int(subprocess.check_output(["pgrep", "-P", str(running.pid)]).split()[0])
        # The line that it printed works.
        [line] = re.findall(r"^  (curl .*)$", log.read_text(), re.M)
        assert "x-metis-branch" in subprocess.run(line, shell=True, capture_output=True, text=True, timeout=120).stdout
        running.send_signal(signal.SIGINT)
        assert running.wait(60) == 0, log.read_text()
        with pytest.raises(ProcessLookupError):
            os.kill(engine, 0)

        # The export is used again; an engine that dies ends the command with a message.
        with serve(hybrid_folder, "--port", port, "--engine_args=--no-such-flag")[0] as again:
            assert again.wait(240) == 2
        assert "The engine stopped by itself, with exit code 2" in log.read_text() and "Writing" not in log.read_text()


FAKE_VLLM = """#!{python}
import importlib, json, sys, uvicorn
from pathlib import Path
from tests.serving.common import Engine
words = sys.argv[1:]
value = lambda flag: words[words.index(flag) + 1]
Path("words.json").write_text(json.dumps(words))
module, _, name = value("--middleware").rpartition(".")
app = getattr(importlib.import_module(module), name)(Engine())
uvicorn.run(app, host=value("--host"), port=int(value("--port")), log_level="error", lifespan="on")
"""


@pytest.mark.slow
def test_vllm_is_called_as_its_command_line_says(hybrid_folder, tmp_path):
    """vLLM itself is not here: a program of its name takes the flags, loads the middleware, and answers."""
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "vllm"
    fake.write_text(FAKE_VLLM.format(python=sys.executable))
    fake.chmod(0o755)
    port, root = free_port(), Path(__file__).parents[2]
    environment = {"PATH": f"{fake.parent}:{os.environ['PATH']}", "PYTHONPATH": f"{root / 'src'}:{root}"}
    command = ["-m", "hf_metis_home.cli", "serve", "--model_name_or_path", str(hybrid_folder), "--engine", "vllm"]
    command += ["--port", str(port), "--engine_args=--dtype bfloat16", "--thinking_threshold", "0"]
    log = (tmp_path / "log").open("w+")
    with process(command, cwd=tmp_path, env=environment, stdout=log, stderr=subprocess.STDOUT) as running:
        wait_until(lambda: "Ctrl-C stops." in (tmp_path / "log").read_text() or running.poll() is not None, 240)
        assert running.poll() is None, (tmp_path / "log").read_text()
        reply = httpx.post(f"http://127.0.0.1:{port}{CHAT}", json=chat("read"))
        assert reply.json()["model"] == reply.headers["x-metis-branch"] == "thinking"
        assert reply.headers["x-metis-source"] == "router"
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 0
    words = json.loads((tmp_path / "words.json").read_text())
    assert words[0] == "serve" and Path(words[1], "config.json").is_file() and words[-2:] == ["--dtype", "bfloat16"]
    assert (tmp_path / "runs/serving" / f"{hybrid_folder.name}-vllm" / "README.md").is_file()


def test_the_models_threshold_counts_and_not_that_of_an_export(hybrid_folder, tmp_path, monkeypatch, capsys):
    started = []
    monkeypatch.setattr(launch, "serve_transformers", lambda model, settings, *_: started.append((model, settings)))
    model = shutil.copytree(hybrid_folder, tmp_path / "hybrid")
    flags = ["serve", "--model_name_or_path", str(model), "--port", str(free_port())]
    monkeypatch.chdir(tmp_path)
    assert main(flags) == 0 and main([*flags, "--thinking_threshold", "0.2", "--served_model_name", "mine"]) == 0
    config = json.loads((model / "config.json").read_text())
    calibration = {"threshold": 0.7, "weights": "other", "date": "today"}
    (model / "config.json").write_text(json.dumps(config | {"thinking_threshold": 0.7, "calibration": calibration}))
    assert capsys.readouterr().err == ""
    assert main(flags) == 0 and "warning: The calibration is stale" in capsys.readouterr().err
    assert [settings.thinking_threshold for _, settings in started] == [0.5, 0.2, 0.7]
    assert {(folder, settings.branch_models["thinking"]) for folder, settings in started} == {(model, "./hybrid")}
    assert [settings.model_name for _, settings in started] == ["hybrid", "mine", "hybrid"]
    assert Path(started[0][1].router, "config.json").is_file()


def test_an_engine_here_is_not_asked_through_a_proxy(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    engine = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        with served(Engine()) as url:
            assert launch.wait_until_healthy(url, seconds=5, exit_code=engine.poll)
    finally:
        engine.communicate()


def test_waiting_for_an_engine_ends():
    url = f"http://127.0.0.1:{free_port()}"
    assert launch.wait_until_healthy(url, seconds=60, exit_code=lambda: 3) is False
    with pytest.raises(TimeoutError, match="was not healthy after 0.4 s. Increase `start_seconds`"):
        launch.wait_until_healthy(url, seconds=0.4, exit_code=lambda: None)


def test_an_export_of_another_template_is_not_served(hybrid_folder, tmp_path):
    model = shutil.copytree(hybrid_folder, tmp_path / "hybrid")
    folder = launch.exported(model, tmp_path / "router", "router")
    assert launch.exported(model, folder, "router") == folder
    (model / "README.md").write_text("other words")
    launch.exported(model, folder, "router")
    for name in ("chat_template.jinja", "tokenizer_config.json", "generation_config.json"):
        text = (model / name).read_text()
        (model / name).write_text(text + "\n ")
        with pytest.raises(ValueError, match=r"not a current 'router' export of this model \(different: processor\)"):
            launch.exported(model, folder, "router")
        (model / name).write_text(text)


def test_an_empty_key_is_refused(hybrid_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("METIS_HOME_API_KEY", "")
    monkeypatch.setattr(launch, "serve_transformers", lambda *_: None)
    flags = ["--model_name_or_path", str(hybrid_folder), "--export_dir", str(tmp_path / "exports")]
    assert main(["serve", *flags, "--port", str(free_port())]) == 2
    message = capsys.readouterr().err
    assert "METIS_HOME_API_KEY is set, but empty" in message and "unset METIS_HOME_API_KEY" in message
    assert not (tmp_path / "exports").exists()


def test_refusals(hybrid_folder, router_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")

    def says(*flags):
        assert main(["serve", *map(str, flags)]) == 2
        return capsys.readouterr().err

    model = ("--model_name_or_path", hybrid_folder, "--port", free_port())
    assert "there is no command `vllm`" in says(*model, "--engine", "vllm")
    assert "`--engine` is 'sglang'" in says(*model, "--engine", "sglang")
    assert "`port` is 99999" in says(*model[:2], "--port", 99999)
    assert "cannot be split into words (No closing quotation)" in says(*model, "--engine_args=--dtype 'float32")
    assert "`router_device` is 'gpu', but must be a torch device" in says(*model, "--router_device", "gpu")
    assert "but must be a torch device of this machine" in says(*model, "--router_device", "cuda:99")
    assert "`thinking_threshold` is 2.0" in says(*model, "--thinking_threshold", 2)
    dense = says("--model_name_or_path", hybrid_folder.parent / "dense", *model[2:])
    assert "`model_name_or_path`" in dense and "`metis-home upcycle` gives it two branches." in dense
    assert "an exported router, which has no branches" in says("--model_name_or_path", router_folder, *model[2:])
    (tmp_path / "exports" / "hybrid-router").mkdir(parents=True)
    (tmp_path / "exports" / "hybrid-router" / "export.json").write_text('{"format": "router", "weights": "0"}')
    assert "not a current 'router' export of this model (different: weights, processor)" in says(
        *model, "--export_dir", tmp_path / "exports"
    )
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        taken_port = taken.getsockname()[1]
        assert "where no server can listen: Address already in use. Choose a free `port`" in says(
            *model[:2], "--port", taken_port
        )
    assert "Cannot assign requested address. Choose a free `port` above 1023, and an address of this machine" in says(
        *model, "--host", "192.0.2.1"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["exports"]
