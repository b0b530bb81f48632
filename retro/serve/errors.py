"""Why a request is not answered, in the form that clients of OpenAI's API know."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """A request ends here, with this status and message."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, retry_after: int = 0
    ) -> None:
        """Take what is to be said.

        Args:
            status: HTTP status, 4xx or 5xx.
            message: What was found and what was needed. The client reads it: nothing of the server's inside.
            param: The parameter that is wrong, as `messages[1].content`.
            code: A word for programs.
            retry_after: Seconds after which the same request may succeed; 0: not said.
        """
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.retry_after = retry_after

    @property
    def kind(self) -> str:
        """OpenAI's `type`."""
        if self.status in _KINDS:
            return _KINDS[self.status]
        return "server_error" if self.status >= 500 else "invalid_request_error"

    def body(self) -> dict[str, Any]:
        """The answer's body."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """What the answer's head says beside the status."""
        headers = {"Retry-After": str(self.retry_after)} if self.retry_after else {}
        return headers | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})


_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def invalid_value(param: str, message: str) -> ApiError:
    """The refusal of one parameter's value."""
    return ApiError(400, f"{param}: {message}", param=param, code="invalid_value")
