"""An ASGI application that hands requests to a server elsewhere, and its answers back as they come."""

import asyncio
from urllib.parse import quote, urlsplit

import httpx

from .errors import RequestError, send_error
from .middleware import BRANCH_KEY


# Of one connection, not of the message (RFC 9110, 7.6.1).
HOP_BY_HOP = {
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"te", b"trailer",
    b"transfer-encoding", b"upgrade", b"proxy-connection",
}  # fmt: skip
CONNECT_SECONDS = 30.0


class Proxy:
    """
    ASGI application in front of one server, or of one for each branch.

    Args:
        upstream (`str` or `dict[str, str]`):
            Address of the server without a path, `http://127.0.0.1:8001`; or branch to address, for two dense models
            that [`RouterMiddleware`] chooses between. What is no question to a branch goes to the first.

    Raises:
        ValueError: no address, or one with more than host and port.
    """

    def __init__(self, upstream: str | dict[str, str]):
        self.upstreams = upstream if isinstance(upstream, dict) else {"": upstream}
        for url in self.upstreams.values():
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.path.strip("/"):
                raise ValueError(
                    f"`upstream` is {url!r}, but must be scheme, host and port alone, e.g. http://127.0.0.1:8001."
                )
        self._transport: httpx.AsyncHTTPTransport | None = None

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if self._transport is None:
            # Waiting for answers has no limit: a long thought is no failure. Nor has the number of those who wait.
            # And a connection for each: one that is kept may be closed by the engine just when it is used again.
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
            self._transport = httpx.AsyncHTTPTransport(limits=limits, trust_env=False)
        body = await _read(receive)
        if body is None:
            return
        forward = asyncio.create_task(self._forward(scope, body, send))
        gone = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait({forward, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # A client that has gone ends the request to the engine too, which then stops generating.
            for task in (forward, gone):
                task.cancel()
            await asyncio.gather(forward, gone, return_exceptions=True)
        if not forward.cancelled():
            forward.result()

    async def _lifespan(self, receive, send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if self._transport is not None:
            await self._transport.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    async def _forward(self, scope, body: bytes, send) -> None:
        upstream = self.upstreams.get(scope.get(BRANCH_KEY)) or next(iter(self.upstreams.values()))
        path = quote(scope["path"].removeprefix(scope.get("root_path", "")), safe="/")
        url = httpx.URL(upstream).copy_with(raw_path=path.encode())
        dropped = HOP_BY_HOP | {b"host", b"content-length"}
        headers = [pair for pair in scope["headers"] if pair[0].lower() not in dropped]
        request = httpx.Request(
            scope["method"],
            url,
            headers=headers,
            content=body,
            extensions={"timeout": {"connect": CONNECT_SECONDS, "read": None, "write": None, "pool": None}},
        )
        try:
            response = await self._transport.handle_async_request(request)
        except httpx.TransportError:
            unavailable = "The engine cannot be reached, or went away before it answered. Try again later."
            await send_error(send, RequestError(503, unavailable, code="engine_unavailable"))
            return
        try:
            kept = [(name.lower(), value) for name, value in response.headers.raw if name.lower() not in HOP_BY_HOP]
            await send({"type": "http.response.start", "status": response.status_code, "headers": kept})
            # An engine that goes away now breaks off the client's answer as well: it must not look complete.
            async for part in response.aiter_raw():
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await response.aclose()


async def _read(receive) -> bytes | None:
    """The body, whose size the middleware has limited; None where the client has gone."""
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


async def _gone(receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
