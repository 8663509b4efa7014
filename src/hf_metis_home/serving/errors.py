"""Errors that clients see, in the form of the OpenAI protocol."""

from starlette.responses import JSONResponse


class RequestError(Exception):
    """
    A request that is refused.

    Args:
        status (`int`): HTTP status.
        message (`str`): For the client: what is wrong, and how to fix it.
        param (`str`, *optional*): Field of the request that is wrong.
        code (`str`, *optional*, defaults to `"invalid_request"`): One word for programs; also a label in the metrics.
    """

    def __init__(self, status: int, message: str, param: str | None = None, code: str = "invalid_request"):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def response(self) -> JSONResponse:
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return JSONResponse({"error": error}, self.status)
