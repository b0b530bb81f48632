"""Errors in OpenAI's form: `ApiError`, and the handlers that turn every other error into one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from retro.serve.responses import ErrorDetail, ErrorResponse

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_CODES = {
    "missing": "missing_parameter",
    "unknown_parameter": "unknown_parameter",
    "unsupported_parameter": "unsupported_parameter",
}


class ApiError(HTTPException):
    """A request ends here, with this status and message."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, retry_after: int = 0
    ) -> None:
        """Hold the parts of the response.

        Args:
            status: HTTP status, 4xx or 5xx.
            message: What was found and what was needed. The client reads it: nothing internal to the server.
            param: The parameter that is wrong, as `messages[1].content`.
            code: A word for programs.
            retry_after: Seconds after which the same request may succeed; 0: not said.
        """
        headers = {"Retry-After": str(retry_after)} if retry_after else {}
        super().__init__(status, message, headers | ({"WWW-Authenticate": "Bearer"} if status == 401 else {}))
        self.message, self.param, self.code = message, param, code

    def body(self) -> ErrorResponse:
        """The response's body."""
        kind = _TYPES.get(self.status_code, "server_error" if self.status_code >= 500 else "invalid_request_error")
        return ErrorResponse(error=ErrorDetail(message=self.message, type=kind, param=self.param, code=self.code))

    def response(self) -> Response:
        """The response."""
        content = self.body().json_bytes()
        return Response(content, self.status_code, self.headers, media_type="application/json")


def invalid_value(param: str, message: str) -> ApiError:
    """The error for one parameter's value."""
    return ApiError(400, f"{param}: {message}", param=param, code="invalid_value")


def stopping() -> ApiError:
    """The error for requests that come while the server stops."""
    return ApiError(503, "the server is stopping", code="stopping", retry_after=5)


def too_slow() -> ApiError:
    """The error for an answer that took too long."""
    return ApiError(504, "the answer took longer than this server allows; ask for fewer tokens", code="timeout")


def invalid_parameter(error: Mapping[str, Any]) -> ApiError:
    """The error for a body that does not fit its model.

    Args:
        error: One of `ValidationError.errors()`, its `loc` counted from the body.
    """
    path = [*error["loc"], *([error["ctx"]["name"]] if error["type"] == "unknown_parameter" else [])]
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")
    message = "is missing" if error["type"] == "missing" else str(error["msg"])
    # JSON has neither tuples nor instances of our classes.
    message = f"{message[:1].lower()}{message[1:]}".replace("tuple", "list").partition(" or instance of ")[0]
    message = message.replace(" after validation", "")
    code = _CODES.get(error["type"], "invalid_value")
    return ApiError(400, f"{name}: {message}", param=name, code=code)


def add_error_handlers(app: FastAPI) -> None:
    """Have every error of an application come out in OpenAI's form."""
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(Exception, _failure)


async def _http_error(request: Request, error: Exception) -> Response:
    if isinstance(error, ApiError):
        return error.response()
    status = error.status_code if isinstance(error, HTTPException) else 404
    known = {404: "there is nothing at this path", 405: "this path takes another method"}
    return ApiError(status, known.get(status, "the request cannot be answered"), code="not_found").response()


async def _validation_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    first = error.errors()[0]
    return invalid_parameter({**first, "loc": first["loc"][1:]}).response()


async def _failure(request: Request, error: Exception) -> Response:
    # Starlette raises it again afterwards, so that the log has it.
    return ApiError(500, "the server failed; its log says why", code="server_error").response()
