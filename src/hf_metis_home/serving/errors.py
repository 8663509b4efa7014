"""Refusals in the form of the OpenAI protocol."""

import json


class RequestError(Exception):
    """
    A request that is not answered.

    Args:
        status (`int`): HTTP status.
        message (`str`): For the caller: what was wrong, and what to do.
        param (`str`, *optional*): Field of the request that was wrong.
        code (`str`, *optional*, defaults to `"invalid_request"`): One word for programs; counted in the metrics.
    """

    def __init__(self, status: int, message: str, param: str | None = None, code: str = "invalid_request"):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def body(self) -> bytes:
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return json.dumps({"error": error}).encode()


async def send_error(send, error: RequestError) -> None:
    await send_body(send, error.status, error.body(), "application/json")


async def send_body(send, status: int, body: bytes, kind: str) -> None:
    """A whole response."""
    headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
