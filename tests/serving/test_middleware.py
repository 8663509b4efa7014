"""What the router in front of an engine offers, refuses and passes on."""

import json
import os
import subprocess
import sys

import pytest

from hf_metis_home.serving import RouterMiddleware, ServingSettings

from .common import CHAT, Engine, app_of, ask, chat, data_url, image_part, picture


@pytest.fixture(scope="module")
def app(router_folder):
    app = app_of(router_folder, model_name="my-hybrid")
    yield app
    app.router.stop()


@pytest.mark.parametrize("model", ["auto", "my-hybrid", "auto:0.35", None, "auto:0", "auto:1.0", "auto:.5"])
def test_names_that_let_the_router_decide(app, model):
    reply = ask(app, chat("read", model=model))
    assert reply.status_code == 200 and reply.headers["x-metis-source"] == "router"
    assert app.app.bodies[-1]["model"] == reply.headers["x-metis-branch"] in ("thinking", "non_thinking")
    assert reply.headers.get_list("x-metis-branch") == [reply.headers["x-metis-branch"]]  # not the engine's
    assert reply.headers["x-engine"] == "stub"
    if model in ("auto:0", "auto:1.0"):
        assert reply.headers["x-metis-branch"] == {"auto:0": "thinking", "auto:1.0": "non_thinking"}[model]


@pytest.mark.parametrize("branch", ["thinking", "non_thinking"])
def test_a_branch_by_name_or_by_template(app, branch):
    enabled = branch == "thinking"
    kwargs = {"chat_template_kwargs": {"enable_thinking": enabled}}
    bodies = [chat("read", model=branch), chat("read", **kwargs), chat("read", model=branch, **kwargs)]
    for body in [*bodies, chat("read", model="auto:0.5", **kwargs)]:
        reply = ask(app, body)
        assert reply.headers["x-metis-branch"] == app.app.bodies[-1]["model"] == branch
        assert reply.headers["x-metis-source"] == "request" and "x-metis-thinking-probability" not in reply.headers
        assert app.app.bodies[-1].get("chat_template_kwargs") == body.get("chat_template_kwargs")
    other = {"chat_template_kwargs": {"enable_thinking": not enabled}}
    refused = ask(app, chat("read", model=branch, **other))
    assert refused.status_code == 400 and "the other one" in refused.json()["error"]["message"]
    assert ask(app, {"model": branch, "prompt": ["a", "b"]}, path="/v1/completions").status_code == 200


def test_what_is_not_ours_is_passed_on(app):
    fields = {"temperature": 0.25, "max_tokens": 7, "tools": [{"type": "function"}], "seed": 2**60, "stop": ["\ud800"]}
    message = {"role": "user", "content": "read", "name": "me"}
    body = json.dumps({"model": "thinking", "messages": [message], **fields})
    reply = ask(app, content=body, headers={"Authorization": "Bearer x", "Content-Type": "application/json"})
    assert reply.status_code == 200
    assert app.app.bodies[-1] == {"model": "thinking", "messages": [message], **fields}
    assert app.app.headers[-1][b"authorization"] == b"Bearer x"


def test_streams_are_untouched(app):
    reply = ask(app, chat("read", model="thinking", stream=True))
    assert reply.text.startswith("data: 0\n\ndata: 1\n\ndata: 2\n\n") and reply.headers["x-metis-branch"] == "thinking"


def test_generation_config_names_the_branch(router_folder):
    models = {"thinking": "./m", "non_thinking": "./m"}
    app = app_of(router_folder, branch_by="generation_config", branch_models=models)
    for branch in ("thinking", "non_thinking"):
        theirs = json.dumps({"top_k": 3, "thinking": branch != "thinking"})
        assert ask(app, chat("read", model=branch, generation_config=theirs)).status_code == 200
        body = app.app.bodies[-1]
        assert body["model"] == "./m"
        assert json.loads(body["generation_config"]) == {"top_k": 3, "thinking": branch == "thinking"}
    for wrong in ("[]", "{", 3, {"a": 1}):
        assert ask(app, chat("read", model="thinking", generation_config=wrong)).status_code == 400


def test_models(app):
    listed = ask(app, path="/v1/models", method="GET").json()
    assert [model["id"] for model in listed["data"]] == ["my-hybrid", "auto", "thinking", "non_thinking"]


def test_metrics(router_folder):
    class Measured(Engine):
        async def __call__(self, scope, receive, send):
            if scope.get("path") != "/metrics":
                return await super().__call__(scope, receive, send)
            await send({"type": "http.response.start", "status": self.status, "headers": []})
            await send({"type": "http.response.body", "body": b"engine_metric 1"})

    app = app_of(router_folder, Measured())
    for body in (chat("read", model="thinking"), chat("read", model="thinking"), chat("read", model="nobody")):
        ask(app, body)
    for status, start in ((200, "engine_metric 1\n# HELP"), (404, "# HELP")):
        app.app.status = status
        reply = ask(app, path="/metrics", method="GET")
        assert reply.status_code == 200 and reply.text.startswith(start)
        assert 'metis_home_requests_total{branch="thinking",source="request"} 2.0\n' in reply.text
        assert 'metis_home_refused_total{reason="model_not_found"} 1.0\n' in reply.text
        assert reply.text.endswith("metis_home_router_pending 0.0\n")


def test_metrics_stay_out_of_the_files_that_vllm_reads(tmp_path):
    """With several API servers vLLM sets this variable, and reports every counter that the client writes there."""
    code = "from hf_metis_home.serving.metrics import Metrics\nmetrics = Metrics()\n"
    code += "metrics.add('requests', 'thinking', 'router')\nprint(metrics.text().decode())"
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    printed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert 'metis_home_requests_total{branch="thinking",source="router"} 1.0' in printed.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/responses"), ("POST", "/v1/load_lora_adapter"), ("POST", "/tokenize"), ("POST", "/reset"),
        ("GET", "/v1/chat/completions"), ("POST", "/v1/chat/completions/"), ("POST", "/V1/chat/completions"),
        ("POST", "//v1/chat/completions"), ("DELETE", "/v1/models"), ("GET", "/"), ("POST", "/v1/../load_model"),
    ],
)  # fmt: skip
def test_nothing_else_reaches_the_engine(app, method, path):
    before = len(app.app.bodies)
    reply = ask(app, chat("read") if method == "POST" else None, path=path, method=method)
    assert reply.status_code == 404 and reply.json()["error"]["code"] == "not_found"
    assert len(app.app.bodies) == before


@pytest.mark.parametrize("path", ["/health", "/ping", "/version"])
def test_health_is_the_engines(app, path):
    assert ask(app, path=path, method="GET").json()["path"] == path


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (b"", 400, None), (b"{", 400, None), (b"[]", 400, None), (b"\xff\xfe", 400, None), (b"null", 400, None),
        (b'{"model": "thinking", "messages": [{"role": "user", "content": "a"}], "x": NaN}', 400, None),
        (b'{"model": "thinking", "messages": [{"role": "user", "content": "a"}], "x": 1e999}', 400, None),
        (b"[" * 100_000, 400, None),
        (b'{"model": "thinking", "x": ' + b"9" * 5000 + b"}", 400, None),
        ({"model": 3, "messages": []}, 404, "model"),
        ({"model": ["auto"], "messages": []}, 404, "model"),
        ({"model": "gpt", "messages": []}, 404, "model"),
        ({"model": "auto:", "messages": []}, 400, "model"),
        ({"model": "auto:1.5", "messages": []}, 400, "model"),
        ({"model": "auto:-1", "messages": []}, 400, "model"),
        ({"model": "auto:nan", "messages": []}, 400, "model"),
        ({"model": "auto:0_1", "messages": []}, 400, "model"),
        ({"model": "auto:٠", "messages": []}, 400, "model"),
        ({"model": "auto"}, 400, "messages"),
        ({"model": "auto", "messages": []}, 400, "messages"),
        ({"model": "auto", "messages": "hello"}, 400, "messages"),
        ({"model": "auto", "messages": [3]}, 400, "messages[0]"),
        ({"model": "auto", "messages": [{"role": 3}]}, 400, "messages[0]"),
        (chat({"type": "video_url", "video_url": {"url": "http://a"}}), 400, "messages[0].content[0]"),
        (chat({"type": "text", "text": 3}), 400, "messages[0].content[0]"),
        (chat({"type": "image_url", "image_url": None}), 400, "messages[0].content[0]"),
        (chat("a", chat_template_kwargs=[]), 400, "chat_template_kwargs"),
        (chat("a", chat_template_kwargs={"enable_thinking": 1}), 400, "chat_template_kwargs.enable_thinking"),
        (chat(*[image_part(data_url(picture()))] * 17), 400, "messages"),
    ],
)  # fmt: skip
def test_bad_bodies(app, body, status, param):
    before = len(app.app.bodies)
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = ask(app, content=content, headers={"Content-Type": "application/json"})
    error = reply.json()["error"]
    assert (reply.status_code, error["param"], error["type"]) == (status, param, "invalid_request_error")
    assert error["message"] and error["code"] and len(app.app.bodies) == before
    assert ask(app, chat("read", model="thinking")).status_code == 200  # it lives on


def test_several_prompts_need_a_branch(app):
    for prompt in (["a", "b"], [[1], [2]], [], 3, None, [1, -1], [True], [1.5]):
        reply = ask(app, {"model": "auto", "prompt": prompt}, path="/v1/completions")
        assert reply.status_code == 400 and reply.json()["error"]["param"] == "prompt"
    tokens = {"model": "auto", "prompt": [10**6]}  # not in the vocabulary
    assert ask(app, tokens, path="/v1/completions").headers["x-metis-source"] == "fallback"


def test_limits_of_the_body(router_folder):
    app = app_of(router_folder, max_body_bytes=1000)
    assert ask(app, chat("a" * 2000)).status_code == 413
    json_type, text = {"Content-Type": "application/json"}, json.dumps(chat("a", model="thinking")).encode()
    assert ask(app, content=text, headers={"Content-Type": "text/plain"}).status_code == 415
    assert ask(app, content=text, headers={**json_type, "Content-Encoding": "gzip"}).status_code == 415
    assert app.app.bodies == []
    assert ask(app, content=text, headers={"Content-Type": "application/json; charset=utf-8"}).status_code == 200


def test_large_bodies(app):
    text = "a" * 600_000
    assert ask(app, chat(text, model="thinking")).status_code == 200
    assert app.app.bodies[-1]["messages"][0]["content"] == text
    assert ask(app, chat(text)).headers["x-metis-source"] == "fallback"  # more than the router reads
    assert ask(app, chat(text, model="nobody")).json()["error"]["code"] == "model_not_found"


def test_what_router_and_engine_read_is_the_same(app):
    """Names that stand twice, and keys that would make a text part an image for the template, or a file of the disk."""
    twice = b'{"model": "auto", "model": "thinking", "messages": [{"role": "user", "content": "a"}]}'
    reply = ask(app, content=twice, headers={"Content-Type": "application/json"})
    assert app.app.bodies[-1]["model"] == reply.headers["x-metis-branch"] == "thinking"
    sly = {"type": "text", "text": "read", "image": "x", "path": "/etc/hostname", "image_url": {"url": "file:///etc"}}
    assert ask(app, chat(sly, model="thinking")).status_code == 200
    assert app.app.bodies[-1]["messages"][0]["content"] == [{"type": "text", "text": "read"}]


def test_a_key(router_folder, monkeypatch):
    monkeypatch.setitem(os.environ, "METIS_HOME_API_KEY", "secret")
    app = app_of(router_folder)
    body = chat("read", model="thinking")
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
        assert ask(app, body, headers=headers).status_code == 401
        assert ask(app, path="/v1/models", method="GET", headers=headers).status_code == 401
    assert app.app.bodies == []
    assert ask(app, body, headers={"Authorization": "Bearer secret"}).status_code == 200
    assert ask(app, path="/health", method="GET").status_code == 200


@pytest.mark.parametrize("key", ["", " "])
def test_an_empty_key_locks_nobody_out(router_folder, monkeypatch, key):
    monkeypatch.setitem(os.environ, "METIS_HOME_API_KEY", key)
    with pytest.raises(ValueError, match="METIS_HOME_API_KEY is set, but empty"):
        app_of(router_folder)


def test_settings(tmp_path, monkeypatch, router_folder):
    monkeypatch.delitem(os.environ, "METIS_HOME_SERVING", raising=False)
    with pytest.raises(ValueError, match="METIS_HOME_SERVING is not set"):
        RouterMiddleware(Engine())
    file = tmp_path / "serving.json"
    monkeypatch.setitem(os.environ, "METIS_HOME_SERVING", str(file))
    with pytest.raises(FileNotFoundError, match="which is not a file"):
        RouterMiddleware(Engine())
    for text, message in (
        ("{", "not valid JSON"), ("[]", "must hold a JSON object with `router`"), ("{}", "with `router`"),
        ('{"router": "r", "a": 1, "max_batch": 0}', "(?s)`max_batch` is 0.*`a` is not a setting"),
    ):  # fmt: skip
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            RouterMiddleware(Engine())
    file.write_text('{"router": "router", "fallback": "thinking"}')
    assert RouterMiddleware(Engine()).settings == ServingSettings(router=str(tmp_path / "router"), fallback="thinking")
    for name in ("thinking", "non_thinking", "auto:0.5"):
        with pytest.raises(ValueError, match=f"`model_name` is '{name}', which means something else"):
            ServingSettings(router="r", model_name=name)
    with pytest.raises(ValueError, match="(?s)`thinking_threshold` is 2.*`fallback` is 'both'.*`max_images` is 0"):
        ServingSettings(router="r", fallback="both", thinking_threshold=2, max_images=0)


def test_lifespan(router_folder, tmp_path):
    """The server does not start without its router; nor before it."""
    import asyncio

    async def start(app):
        sent, messages = [], iter(({"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}))

        async def receive():
            return next(messages)

        async def send(message):
            sent.append(message)

        await app({"type": "lifespan"}, receive, send)
        return sent

    app = app_of(router_folder)
    sent = asyncio.run(start(app))
    assert [message["type"] for message in sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert app.router.model is not None and not app.router._thread.is_alive()
    sent = asyncio.run(start(app_of(tmp_path / "absent")))
    assert sent[0]["type"] == "lifespan.startup.failed" and "absent" in sent[0]["message"]


def test_websockets_are_closed(app):
    import asyncio

    sent = []

    async def run():
        async def receive():
            return {"type": "websocket.connect"}

        async def send(message):
            sent.append(message)

        await app({"type": "websocket", "path": CHAT}, receive, send)

    asyncio.run(run())
    assert sent == [{"type": "websocket.close", "code": 1008}]
