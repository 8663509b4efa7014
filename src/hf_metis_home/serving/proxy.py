"""An ASGI application that forwards requests to a server elsewhere and streams its answers back."""

import asyncio
from urllib.parse import quote, urlsplit

import httpx
from starlette.requests import ClientDisconnect, Request

from .errors import RequestError
from .middleware import BRANCH_KEY


# Headers of one connection, not of the message (RFC 9110, 7.6.1).
HOP_BY_HOP = {
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"te", b"trailer",
    b"transfer-encoding", b"upgrade", b"proxy-connection",
}  # fmt: skip
# No limit on waiting for an answer: a long thought is not a failure.
TIMEOUTS = {"connect": 30.0, "read": None, "write": None, "pool": None}


class Proxy:
    """
    ASGI application in front of one server, or of one for each branch.

    Args:
        upstream (`str` or `dict[str, str]`):
            Address of the server without a path, `http://127.0.0.1:8001`; or branch to address, for two dense models
            that [`RouterMiddleware`] chooses between. Requests without a branch, such as `/health`, go to the first.

    Raises:
        ValueError: an address that is not just scheme, host and port.
    """

    def __init__(self, upstream: str | dict[str, str]):
        self.upstreams = upstream if isinstance(upstream, dict) else {"": upstream}
        for url in self.upstreams.values():
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.path.strip("/"):
                raise ValueError(f"`upstream` is {url!r}, but must be scheme, host and port: http://127.0.0.1:8001.")
        # As many requests at a time as clients send, each on a new connection: the engine may close one that is kept
        # just when it is used again.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._transport = httpx.AsyncHTTPTransport(limits=limits, trust_env=False)

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        try:
            body = await Request(scope, receive).body()  # the middleware limits its size
        except ClientDisconnect:
            return
        async with asyncio.TaskGroup() as group:
            forward = group.create_task(self._forward(scope, body, receive, send))
            gone = group.create_task(_gone(receive))
            # When the client leaves, the request to the engine ends too, so that the engine stops generating.
            await asyncio.wait({forward, gone}, return_when=asyncio.FIRST_COMPLETED)
            forward.cancel()
            gone.cancel()

    async def _lifespan(self, receive, send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._transport.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    async def _forward(self, scope, body: bytes, receive, send) -> None:
        upstream = self.upstreams.get(scope.get(BRANCH_KEY)) or next(iter(self.upstreams.values()))
        path = quote(scope["path"].removeprefix(scope.get("root_path", "")), safe="/")
        url = httpx.URL(upstream).copy_with(raw_path=path.encode())
        dropped = HOP_BY_HOP | {b"host", b"content-length"}
        headers = [pair for pair in scope["headers"] if pair[0].lower() not in dropped]
        request = httpx.Request(scope["method"], url, headers=headers, content=body, extensions={"timeout": TIMEOUTS})
        try:
            response = await self._transport.handle_async_request(request)
        except httpx.TransportError:
            text = "The engine cannot be reached, or stopped before it answered. Try again later."
            await RequestError(503, text, code="engine_unavailable").response()(scope, receive, send)
            return
        try:
            kept = [(name.lower(), value) for name, value in response.headers.raw if name.lower() not in HOP_BY_HOP]
            await send({"type": "http.response.start", "status": response.status_code, "headers": kept})
            # If the engine stops now, the client's answer breaks off as well: it must not look complete.
            async for part in response.aiter_raw():
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await response.aclose()


async def _gone(receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
