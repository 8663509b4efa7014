"""
The router in front of an engine, as ASGI middleware.

A request names a branch, or leaves the choice to the router; the engine always gets a branch. Answers pass through as
they come, with headers that say which branch it was and who chose it. Whatever else the engine could do is not offered
(see `PASSED`): there a request could reach the engine without a branch, or make it read an image that nobody looked at.
"""

import asyncio
import hmac
import json
import logging
import time

from ..modeling.configuration_metis_home import BRANCHES
from .errors import RequestError, send_body, send_error
from .images import ImageReader
from .metrics import Counters
from .router_worker import RouterUnavailable, RouterWorker
from .routing import AUTO, Request, read_request, router_messages, written
from .settings import ServingSettings, api_key


logger = logging.getLogger(__name__)
ROUTED = ("/v1/chat/completions", "/v1/completions")
PASSED = ("/health", "/ping", "/version")
BRANCH, PROBABILITY, SOURCE = b"x-metis-branch", b"x-metis-thinking-probability", b"x-metis-source"
BRANCH_KEY = "metis_home.branch"  # in the scope, for an application that is more than one engine
LARGE_BODY = 2**18
REPLACED = (b"content-length", b"content-type", b"transfer-encoding", b"expect")


class RouterMiddleware:
    """
    ASGI middleware that sends each request to a branch.

    Args:
        app (`Callable`):
            The ASGI application of an engine that speaks the OpenAI protocol.
        settings ([`ServingSettings`], *optional*):
            By default those in the file that the environment variable `METIS_HOME_SERVING` names.

    Example:

    ```python
    >>> from hf_metis_home.serving import Proxy, RouterMiddleware, ServingSettings

    >>> app = RouterMiddleware(Proxy("http://127.0.0.1:8001"), ServingSettings(router="runs/router"))
    >>> # uvicorn.run(app, port=8000)
    ```
    """

    def __init__(self, app, settings: ServingSettings | None = None):
        self.app, self.settings = app, settings or ServingSettings.from_environment()
        self.counters = Counters()
        self.router, self.images = RouterWorker(self.settings, self.counters), ImageReader(self.settings)
        self._key, self._started = api_key(), int(time.time())

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        elif scope["type"] == "http":
            try:
                await self._http(scope, receive, send)
            except RequestError as error:
                self.counters.add("refused", reason=error.code)
                await send_error(send, error)
        else:
            await receive()
            await send({"type": "websocket.close", "code": 1008})

    async def _lifespan(self, scope, receive, send) -> None:
        """Starts when the router is there, so that no first request has to wait; fails where it cannot be loaded."""

        async def send_when_loaded(message):
            if message["type"] == "lifespan.startup.complete":
                try:
                    await self.router.wait_until_loaded()
                except Exception as error:
                    logger.exception("The router in %r cannot be loaded.", self.settings.router)
                    message = {"type": "lifespan.startup.failed", "message": f"The router cannot be loaded: {error}"}
            elif message["type"] == "lifespan.shutdown.complete":
                self.router.stop()
            await send(message)

        await self.app(scope, receive, send_when_loaded)

    async def _http(self, scope, receive, send) -> None:
        path, method = scope["path"].removeprefix(scope.get("root_path", "")), scope["method"]
        if path.startswith("/v1/") and method != "OPTIONS":
            self._check_key(scope)
        if path in ROUTED and method == "POST":
            await self._answer(path, scope, receive, send)
        elif path == "/v1/models" and method == "GET":
            models = {"object": "list", "data": [self._model(name) for name in self._names()]}
            await send_body(send, 200, json.dumps(models).encode(), "application/json")
        elif path == "/metrics" and method == "GET":
            await self._metrics(scope, receive, send)
        elif (path in PASSED and method == "GET") or (path in (*ROUTED, "/v1/models") and method == "OPTIONS"):
            await self.app(scope, receive, send)
        else:
            known = ", ".join((*ROUTED, "/v1/models", "/metrics", *PASSED))
            raise RequestError(404, f"There is nothing here. There are {known}.", code="not_found")

    def _check_key(self, scope) -> None:
        if self._key is None:
            return
        given = dict(scope["headers"]).get(b"authorization", b"")
        if not hmac.compare_digest(given, f"Bearer {self._key}".encode()):
            raise RequestError(401, "The API key is missing or wrong.", code="invalid_api_key")

    def _names(self) -> list[str]:
        return list(dict.fromkeys((self.settings.model_name, AUTO, *BRANCHES)))

    def _model(self, name: str) -> dict:
        return {"id": name, "object": "model", "created": self._started, "owned_by": "hf_metis_home"}

    async def _answer(self, path: str, scope, receive, send) -> None:
        data = await self._body(scope, receive)
        if data is None:
            return  # the client has gone
        request = await _run(len(data), read_request, path, data, self.settings)
        request.prompt.pixels = await self.images.read(request.images)
        branch, probability, source = await self._choose(request)
        body = await _run(len(data), written, request, branch, self.settings)
        self.counters.add("requests", branch=branch, source=source)
        answered = [(BRANCH, branch.encode()), (SOURCE, source.encode())]
        if probability is not None:
            answered.append((PROBABILITY, f"{probability:.6g}".encode()))

        async def send_with_headers(message):
            if message["type"] == "http.response.start":
                ours = (BRANCH, SOURCE, PROBABILITY)
                kept = [pair for pair in message.get("headers", ()) if pair[0].lower() not in ours]
                message = {**message, "headers": [*kept, *answered]}
            await send(message)

        headers = [pair for pair in scope["headers"] if pair[0].lower() not in REPLACED]
        headers += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        scope = {**scope, "headers": headers, BRANCH_KEY: branch}
        await self.app(scope, _replay(body, receive), send_with_headers)

    async def _choose(self, request: Request) -> tuple[str, float | None, str]:
        """Branch, the router's probability where it was asked, and who chose."""
        if request.branch is not None:
            return request.branch, None, "request"
        if request.prompt.text is None and request.prompt.tokens is None:
            request.prompt.messages = router_messages(request)
        try:
            routed = await self.router.route(request.prompt, request.threshold)
        except RouterUnavailable as unavailable:
            self.counters.add("fallbacks", reason=str(unavailable))
            return self.settings.fallback, None, "fallback"
        branch = "thinking" if routed.thinking else "non_thinking"
        return branch, routed.probability, "request" if routed.probability is None else "router"

    async def _body(self, scope, receive) -> bytes | None:
        """The whole body, or None where the client has gone before its end."""
        headers = {name.lower(): value for name, value in scope["headers"]}
        kind = headers.get(b"content-type", b"application/json").split(b";")[0].strip().lower()
        if kind != b"application/json" or headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise RequestError(415, "The body must be application/json, not compressed.", code="unsupported_media_type")
        parts, size, limit = [], 0, self.settings.max_body_bytes
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > limit:
                raise RequestError(413, f"The body has more than {limit} bytes.", code="body_too_large")
            if not message.get("more_body", False):
                return b"".join(parts)

    async def _metrics(self, scope, receive, send) -> None:
        """The engine's own metrics, where it has any, and ours behind them."""
        status, parts = 0, []

        async def keep(message):
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                parts.append(message.get("body", b""))

        plain = [pair for pair in scope["headers"] if pair[0].lower() not in (b"accept", b"accept-encoding")]
        await self.app({**scope, "headers": plain}, receive, keep)
        theirs = b"".join(parts) if status == 200 else b""
        theirs += b"" if not theirs or theirs.endswith(b"\n") else b"\n"
        ours = self.counters.text(self.router.pending).encode()
        await send_body(send, 200, theirs + ours, "text/plain; version=0.0.4; charset=utf-8")


async def _run(size: int, function, *arguments):
    """A call that takes long for a large body, which then must not hold up the streams of others."""
    return await asyncio.to_thread(function, *arguments) if size > LARGE_BODY else function(*arguments)


def _replay(body: bytes, receive):
    """`receive` for a body that was read already; afterwards the client's, which says when it has gone."""
    sent = False

    async def replay():
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
