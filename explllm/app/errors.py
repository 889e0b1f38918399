"""Errors of the HTTP server in OpenAI's format."""

from __future__ import annotations

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from explllm.app.explainer import Busy
from explllm.core.errors import CheckpointError, InputError


class RequestError(Exception):
    """A request that gets an error in OpenAI's format instead of an answer."""

    def __init__(self, status: int, message: str, code: str, headers: dict[str, str] | None = None) -> None:
        """Store the HTTP status, a message for the client, a machine-readable code, and additional response headers."""
        super().__init__(message)
        self.status, self.message, self.code, self.headers = status, message, code, headers or {}

    @property
    def body(self) -> dict[str, dict[str, str | None]]:
        """The error in the format that OpenAI's clients read."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": self.message, "type": kind, "param": None, "code": self.code}}


def as_request_error(error: Exception) -> RequestError:
    """Convert an exception to the error that a client receives. Messages of unexpected errors stay on the server."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, Busy):
        return RequestError(503, str(error), "overloaded", {"Retry-After": "5"})
    if isinstance(error, CheckpointError):  # without its path
        return RequestError(500, f"The server cannot use its model: {error.found}.", "model_error")
    if isinstance(error, InputError):
        return RequestError(400, str(error), "invalid_image")
    if isinstance(error, RequestValidationError):
        # pydantic's messages quote the input, which may be a picture.
        places = [".".join(map(str, item["loc"][1:])) + f": {item['type']}" for item in error.errors()[:3]]
        return RequestError(400, f"Invalid request: {'; '.join(places)}"[:500], "invalid_request")
    if isinstance(error, HTTPException):
        return RequestError(error.status_code, str(error.detail), "error")
    if isinstance(error, TimeoutError):
        return RequestError(504, "The answer took too long.", "timeout")
    return RequestError(500, "The server failed. Its log has the details.", "internal_error")


async def error_response(_: Request, error: Exception) -> JSONResponse:
    """Return an error as a response."""
    request_error = as_request_error(error)
    return JSONResponse(request_error.body, request_error.status, request_error.headers)
