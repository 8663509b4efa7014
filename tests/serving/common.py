"""Models, images, an engine that only keeps what it was asked, and servers on this machine."""

import asyncio
import base64
import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import uvicorn
from PIL import Image

from hf_metis_home.conversion import upcycle_checkpoint
from hf_metis_home.serving import RouterMiddleware, ServingSettings

from ..conversion.common import perturb, save_dense


CHAT = "/v1/chat/completions"
ROOT = Path(__file__).parents[2]


def make_hybrid(folder: Path, **kind) -> Path:
    upcycle_checkpoint(save_dense(folder.parent / "dense"), folder, **kind)
    return perturb(folder, (".thinking.", ".non_thinking.", "router.score", "router.up_proj"), scale=0.3)


def picture(color="red", kind="PNG", size=(56, 56)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, kind)
    return file.getvalue()


def data_url(data: bytes, kind="png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def image_part(url: str) -> dict:
    return {"type": "image_url", "image_url": {"url": url}}


def chat(*parts, model="auto", **fields) -> dict:
    """A body with one message: text, or text and parts."""
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    content = parts[0] if len(parts) == 1 and isinstance(parts[0], str) else content
    return {"model": model, "messages": [{"role": "user", "content": content}], **fields}


class Engine:
    """An ASGI application that answers every request, streams where it is asked to, and keeps the bodies."""

    def __init__(self):
        self.bodies, self.headers, self.running = [], [], 0

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        asked = json.loads(body) if scope["method"] == "POST" else None
        self.bodies.append(asked)
        self.headers.append(dict(scope["headers"]))
        self.running += 1
        try:
            if asked and asked.get("stream"):
                await self._stream(scope, asked, receive, send)
            else:
                await self._answer(scope, asked, send)
        finally:
            self.running -= 1

    async def _stream(self, scope, asked, receive, send):
        """Until the client has gone, as servers do that stream."""
        answer, gone = asyncio.create_task(self._answer(scope, asked, send)), asyncio.create_task(receive())
        await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
        for task in (answer, gone):
            task.cancel()
        await asyncio.gather(answer, gone, return_exceptions=True)

    async def _answer(self, scope, asked, send):
        kind = b"text/event-stream" if asked and asked.get("stream") else b"application/json"
        headers = [(b"content-type", kind), (b"x-engine", b"stub"), (b"x-metis-branch", b"forged")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for number in range(asked.get("chunks", 3) if asked and asked.get("stream") else 0):
            await send({"type": "http.response.body", "body": f"data: {number}\n\n".encode(), "more_body": True})
            await asyncio.sleep(asked.get("pause", 0))
        body = json.dumps({"path": scope["path"], "model": asked and asked.get("model")}).encode()
        await send({"type": "http.response.body", "body": body})


def app_of(router_folder, engine=None, **settings) -> RouterMiddleware:
    return RouterMiddleware(engine or Engine(), ServingSettings(router=str(router_folder), **settings))


def counted(app, name, **labels) -> float:
    """The value of a counter, 0 where it has not counted."""
    return app.metrics.registry.get_sample_value(f"metis_home_{name}_total", labels) or 0


def ask(app, body=None, path=CHAT, method="POST", **request) -> httpx.Response:
    return ask_all(app, [body], path, method, **request)[0]


def ask_all(app, bodies, path=CHAT, method="POST", **request) -> list[httpx.Response]:
    """All at once, in one event loop."""

    async def run():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            each = [{"json": body, **request} if body is not None else request for body in bodies]
            return await asyncio.gather(*(client.request(method, path, **one) for one in each))

    return asyncio.run(run())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def served(app, port=None):
    """The address of a server for an ASGI application, in a thread of this process."""
    port = port or free_port()
    options = {"log_level": "error", "lifespan": "on", "timeout_graceful_shutdown": 2}
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, **options))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started or not thread.is_alive())
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=30)


@contextmanager
def process(command, **options):
    """A process that is ended with the block."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), **options.pop("env", {})}
    started = subprocess.Popen([sys.executable, *command], env=environment, **options)
    try:
        yield started
    finally:
        if started.poll() is None:
            started.terminate()
            try:
                started.wait(40)
            except subprocess.TimeoutExpired:
                started.kill()
        started.wait()


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
