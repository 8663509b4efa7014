"""In front of an engine elsewhere: what comes goes through, whoever leaves is noticed, and what dies is told."""

import asyncio
import gc
import json
import threading
import time
import tracemalloc

import httpx
import pytest

from hf_metis_home.serving import Proxy

from .common import CHAT, Engine, app_of, chat, counted, free_port, process, served, wait_until


BODY = chat("read", model="thinking")


@pytest.fixture
def engine():
    engine = Engine()
    with served(engine) as engine.url:
        yield engine


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://a", "http://", "http://a/v1", "http://me@a", ""])
def test_addresses(url):
    with pytest.raises(ValueError, match="`upstream` is"):
        Proxy(url)


def test_requests_and_answers_go_through(engine, router_folder):
    with served(app_of(router_folder, Proxy(engine.url))) as url:
        reply = httpx.post(url + CHAT, json=BODY, headers={"X-Mine": "1", "Authorization": "Bearer k"})
        assert reply.status_code == 200 and reply.json() == {"path": CHAT, "model": "thinking"}
        assert reply.headers["x-metis-branch"] == "thinking" and reply.headers["x-engine"] == "stub"
        assert engine.headers[-1][b"x-mine"] == b"1" and engine.headers[-1][b"authorization"] == b"Bearer k"
        assert engine.headers[-1][b"host"] == engine.url.removeprefix("http://").encode()
        routed = httpx.post(url + CHAT, json=chat("read"))
        assert routed.headers["x-metis-source"] == "router"
        assert httpx.get(url + "/health").json()["path"] == "/health"


def test_streams_come_as_they_are_made(engine, router_folder):
    with served(app_of(router_folder, Proxy(engine.url))) as url:
        body, times, text = BODY | {"stream": True, "chunks": 4, "pause": 0.3}, [], b""
        with httpx.stream("POST", url + CHAT, json=body, timeout=20) as reply:
            assert reply.headers["content-type"] == "text/event-stream"
            for part in reply.iter_raw():
                times.append(time.monotonic())
                text += part
    assert text.startswith(b"data: 0\n\ndata: 1\n\ndata: 2\n\ndata: 3\n\n")
    assert times[-1] - times[0] > 0.7  # not kept until the end


def test_a_branch_of_its_own_server(router_folder):
    engines = {"thinking": Engine(), "non_thinking": Engine()}
    with served(engines["thinking"]) as one, served(engines["non_thinking"]) as two:
        names = {"thinking": "dense-a", "non_thinking": "dense-b"}
        proxy = Proxy({"thinking": one, "non_thinking": two})
        with served(app_of(router_folder, proxy, branch_models=names)) as url:
            for branch in engines:
                assert httpx.post(url + CHAT, json=BODY | {"model": branch}).json()["model"] == names[branch]
    for branch, engine in engines.items():
        assert [body["model"] for body in engine.bodies] == [names[branch]]


def test_a_client_that_leaves_ends_the_request_to_the_engine(engine, router_folder):
    with served(app_of(router_folder, Proxy(engine.url))) as url:
        body = BODY | {"stream": True, "chunks": 1000, "pause": 0.05}
        with httpx.stream("POST", url + CHAT, json=body) as reply:
            parts = reply.iter_raw()  # which leaves when it is forgotten
            next(parts)
            assert engine.running == 1
        wait_until(lambda: engine.running == 0, 10)
        assert httpx.post(url + CHAT, json=BODY).status_code == 200


ENGINE_PROCESS = """
import sys, uvicorn
from tests.serving.common import Engine
uvicorn.run(Engine(), host="127.0.0.1", port=int(sys.argv[1]), log_level="error")
"""


def healthy(url: str) -> bool:
    try:
        return httpx.get(url + "/health").status_code == 200
    except httpx.HTTPError:
        return False


@pytest.mark.slow
def test_an_engine_that_is_killed_and_comes_back(router_folder):
    port = free_port()
    with served(app_of(router_folder, Proxy(f"http://127.0.0.1:{port}"))) as url:
        for _ in range(2):
            reply = httpx.post(url + CHAT, json=BODY)
            error = reply.json()["error"]
            assert (reply.status_code, error["code"], error["type"]) == (503, "engine_unavailable", "server_error")
            with process(["-c", ENGINE_PROCESS, str(port)]) as engine:
                wait_until(lambda: healthy(url), 240)
                assert httpx.post(url + CHAT, json=BODY).status_code == 200
                endless = BODY | {"stream": True, "chunks": 1000, "pause": 0.05}
                with httpx.stream("POST", url + CHAT, json=endless) as stream:
                    parts = stream.iter_raw()
                    next(parts)
                    engine.kill()
                    with pytest.raises(httpx.HTTPError):  # broken off, and not as if it were whole
                        for _ in parts:
                            pass
        assert httpx.post(url + CHAT, json=BODY).status_code == 503


@pytest.mark.slow
def test_many_at_once_with_clients_that_leave(router_folder, caplog):
    """Two hundred at a time, a quarter of which leaves: every other one is answered, and nothing is left over."""
    # On a busy machine asyncio says of each write that its client has gone, and pytest would keep all that it says.
    caplog.set_level("ERROR", logger="asyncio")
    engine = Engine()
    with served(engine) as upstream:
        app = app_of(router_folder, Proxy(upstream), max_pending=1000, router_timeout=60)
        tasks = {}

        async def counting(scope, receive, send):
            if scope.get("path") == "/tasks":
                tasks["now"] = [
                    task for task in asyncio.all_tasks() if "_forward" in repr(task) or "_gone" in repr(task)
                ]
                await send({"type": "http.response.start", "status": 200, "headers": []})
                return await send({"type": "http.response.body", "body": b""})
            await app(scope, receive, send)

        with served(counting) as url:

            async def one(client, number):
                body = chat("read" if number % 2 else "what digits", model=["auto", "thinking", "auto:0.5"][number % 3])
                body |= {"stream": number % 4 < 2, "chunks": 20, "pause": 0.02}
                if number % 4:
                    reply = await client.post(url + CHAT, json=body)
                    assert reply.status_code == 200, reply.text
                    assert json.loads(reply.text.split("\n\n")[-1])["model"] == reply.headers["x-metis-branch"]
                    return 1
                async with client.stream("POST", url + CHAT, json=body) as reply:
                    async for _ in reply.aiter_raw():
                        return 0

            async def crowd():
                limits = httpx.Limits(max_connections=None)
                async with httpx.AsyncClient(limits=limits, timeout=120) as client:
                    return await asyncio.gather(*(one(client, number) for number in range(200)))

            def memory() -> int:
                gc.collect()
                return tracemalloc.get_traced_memory()[0]

            assert sum(asyncio.run(crowd())) == 150
            tracemalloc.start()
            assert sum(asyncio.run(crowd())) == 150
            engine.bodies.clear(), engine.headers.clear()
            first, threads = memory(), threading.active_count()
            for _ in range(3):
                assert sum(asyncio.run(crowd())) == 150
                engine.bodies.clear(), engine.headers.clear()
            wait_until(lambda: engine.running == 0, 20)
            assert memory() - first < 1_000_000
            tracemalloc.stop()
            assert threading.active_count() <= threads
            httpx.get(url + "/tasks")
            assert tasks["now"] == [] and app.metrics.pending() == 0
        assert counted(app, "requests", branch="thinking", source="request") > 300
        assert counted(app, "fallbacks", reason="error") == 0
