"""
The router in front of an engine, as ASGI middleware.

A request names a branch or leaves the choice to the router; the engine is always told a branch. Answers stream through
unchanged, with headers that say which branch answered and who chose it. Other endpoints of the engine are closed (see
`PASSED`): there, a request could reach the engine without a branch, or make it read an image that nobody checked.
"""

import asyncio
import hmac
import logging
import time

from starlette.requests import ClientDisconnect
from starlette.requests import Request as HTTPRequest
from starlette.responses import JSONResponse, Response

from ..modeling.configuration_metis_home import BRANCHES
from .errors import RequestError
from .images import ImageReader
from .metrics import Metrics
from .request_body import RequestBody
from .router_worker import RouterUnavailable, RouterWorker
from .settings import AUTO, ServingSettings, api_key


logger = logging.getLogger(__name__)
ROUTED = ("/v1/chat/completions", "/v1/completions")
PASSED = ("/health", "/ping", "/version")
BRANCH, PROBABILITY, SOURCE = b"x-metis-branch", b"x-metis-thinking-probability", b"x-metis-source"
BRANCH_KEY = "metis_home.branch"  # in the ASGI scope, for an application with one engine per branch
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
        self.metrics = Metrics()
        self.router, self.images = RouterWorker(self.settings, self.metrics), ImageReader(self.settings)
        self._key, self._started = api_key(), int(time.time())

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        elif scope["type"] == "http":
            try:
                await self._http(scope, receive, send)
            except RequestError as error:
                self.metrics.add("refused", error.code)
                await error.response()(scope, receive, send)
        else:
            await receive()
            await send({"type": "websocket.close", "code": 1008})

    async def _lifespan(self, scope, receive, send) -> None:
        """Startup ends once the router is loaded, so that no request waits for it, and fails if it cannot be loaded."""

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
            await self._models()(scope, receive, send)
        elif path == "/metrics" and method == "GET":
            await self._metrics(scope, receive, send)
        elif (path in PASSED and method == "GET") or (path in (*ROUTED, "/v1/models") and method == "OPTIONS"):
            await self.app(scope, receive, send)
        else:
            known = ", ".join((*ROUTED, "/v1/models", "/metrics", *PASSED))
            raise RequestError(404, f"Unknown endpoint, or wrong method. Endpoints are {known}.", code="not_found")

    def _check_key(self, scope) -> None:
        given = dict(scope["headers"]).get(b"authorization", b"")
        if self._key is not None and not hmac.compare_digest(given, f"Bearer {self._key}".encode()):
            raise RequestError(401, "Missing or wrong API key. Send it as a bearer token.", code="invalid_api_key")

    def _models(self) -> JSONResponse:
        fields = {"object": "model", "created": self._started, "owned_by": "hf_metis_home"}
        names = dict.fromkeys((self.settings.model_name, AUTO, *BRANCHES))
        return JSONResponse({"object": "list", "data": [{"id": name, **fields} for name in names]})

    async def _answer(self, path: str, scope, receive, send) -> None:
        try:
            data = await self._read(HTTPRequest(scope, receive))
        except ClientDisconnect:
            return
        body = await _run(len(data), RequestBody.read, path, data, self.settings)
        body.prompt.pixels = await self.images.read(body.images)
        branch, probability, source = await self._choose(body)
        data = await _run(len(data), body.for_engine, branch, self.settings)
        self.metrics.add("requests", branch, source)
        decision = [(BRANCH, branch.encode()), (SOURCE, source.encode())]
        if probability is not None:
            decision.append((PROBABILITY, f"{probability:.6g}".encode()))

        async def send_with_decision(message):
            if message["type"] == "http.response.start":
                kept = [pair for pair in message.get("headers", ()) if not pair[0].lower().startswith(b"x-metis-")]
                message = {**message, "headers": [*kept, *decision]}
            await send(message)

        headers = [pair for pair in scope["headers"] if pair[0].lower() not in REPLACED]
        headers += [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
        scope = {**scope, "headers": headers, BRANCH_KEY: branch}
        await self.app(scope, _replay(data, receive), send_with_decision)

    async def _choose(self, body: RequestBody) -> tuple[str, float | None, str]:
        """Branch, the router's probability if it was asked, and who chose."""
        if body.branch is not None:
            return body.branch, None, "request"
        try:
            thinking, probability = await self.router.route(body.prompt, body.threshold)
        except RouterUnavailable as unavailable:
            self.metrics.add("fallbacks", str(unavailable))
            return self.settings.fallback, None, "fallback"
        return "thinking" if thinking else "non_thinking", probability, "request" if probability is None else "router"

    async def _read(self, request: HTTPRequest) -> bytes:
        """The whole body. Raises `ClientDisconnect` if the client leaves before its end."""
        kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
        if kind != "application/json" or request.headers.get("content-encoding", "identity").lower() != "identity":
            raise RequestError(415, "The body must be uncompressed application/json.", code="unsupported_media_type")
        body, limit = bytearray(), self.settings.max_body_bytes
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise RequestError(413, f"The body has more than {limit} bytes. Send less.", code="body_too_large")
        return bytes(body)

    async def _metrics(self, scope, receive, send) -> None:
        """The engine's own metrics, if it has any, then ours."""
        status, text = 0, bytearray()

        async def keep(message):
            nonlocal status
            status = message.get("status", status)
            text.extend(message.get("body", b""))

        plain = [pair for pair in scope["headers"] if pair[0].lower() not in (b"accept", b"accept-encoding")]
        await self.app({**scope, "headers": plain}, receive, keep)
        theirs = bytes(text).rstrip(b"\n") + b"\n" if status == 200 and text else b""
        media_type = "text/plain; version=0.0.4; charset=utf-8"
        await Response(theirs + self.metrics.text(), media_type=media_type)(scope, receive, send)


async def _run(size: int, function, *arguments):
    """Calls a function, for a large body in a thread, so that it does not hold up the streams of other clients."""
    return await asyncio.to_thread(function, *arguments) if size > LARGE_BODY else function(*arguments)


def _replay(body: bytes, receive):
    """`receive` for a body that was read already; then the client's own, which says when the client leaves."""
    sent = False

    async def replay():
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
