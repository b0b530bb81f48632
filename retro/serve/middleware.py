"""Middleware: authentication, host and origin checks, safe headers, and metrics in Prometheus' text format."""

from __future__ import annotations

import hmac
import ipaddress
import time
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from retro.qa.passages import Retrieve
from retro.qa.question import PassageLike
from retro.serve.config import ServeConfig
from retro.serve.errors import ApiError

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Metrics:
    """All metrics; each server has its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "retro_requests", "HTTP requests that were answered.", ("route", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "retro_request_seconds",
            "From the first byte of a request to the last of its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.first_token = Histogram(
            "retro_first_token_seconds",
            "From a streamed request's prompt to its first token.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.prompt_tokens = Counter("retro_prompt_tokens", "Tokens of accepted prompts.", registry=self.registry)
        self.new_tokens = Counter("retro_new_tokens", "Tokens of finished answers.", registry=self.registry)
        self.ended = Counter(
            "retro_answers", "Finished answers, by the reason for their end.", ("ended",), registry=self.registry
        )
        self.cancelled = Counter(
            "retro_cancelled_answers",
            "Answers that were cancelled: the client left, time was up, or they failed.",
            registry=self.registry,
        )
        self.searches = Counter("retro_searches", "Texts that the index was searched for.", registry=self.registry)
        self.search_seconds = Histogram(
            "retro_search_seconds", "Of one search, for one or more texts.", buckets=_SECONDS, registry=self.registry
        )

    def watch(self, name: str, meaning: str, read: Callable[[], float]) -> None:
        """Add a gauge that is read on demand."""
        Gauge(name, meaning, registry=self.registry).set_function(read)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def counted(self, retrieve: Retrieve) -> Retrieve:
        """The same retriever, with its searches counted."""

        def search(texts: list[str]) -> Sequence[Sequence[PassageLike]]:
            began = monotonic()
            found = retrieve(texts)
            self.searches.inc(len(texts))
            self.search_seconds.observe(monotonic() - began)
            return found

        return search


OPEN_PATHS = ("/", "/health", "/health/live")
"""Paths that need no key: the page that asks for it, and the health checks."""
ROUTES = (
    *OPEN_PATHS,
    "/metrics",
    "/openapi.json",
    "/v1/models",
    "/v1/completions",
    "/v1/chat/completions",
    "/retrieve",
)
_SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
_SPARE_REQUESTS = 8


class AccessMiddleware:
    """ASGI middleware around the whole application: checks who sends a request, and counts the response."""

    def __init__(self, app: ASGIApp, *, config: ServeConfig, metrics: Metrics) -> None:
        """Wrap `app`.

        Args:
            app: The application.
            config: Key, hosts and origins.
            metrics: Counts every response.
        """
        self._app, self._metrics, self._config = app, metrics, config
        self._key = config.api_key.get_secret_value().encode() if config.api_key is not None else None
        self._received = 0
        # More could not even wait in the queue; their bodies need not be read.
        self._max_received = config.max_running + config.max_queued + _SPARE_REQUESTS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # 499, nginx's code: the client left before it had an answer.
        began, status = time.monotonic(), [499]

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                status[0] = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _SAFE_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        counted = 0

        async def receive_counted() -> Message:
            nonlocal counted
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body", False) and not counted:
                self._require_room()
                counted = int(scope["method"] == "POST")
                self._received += counted
            return message

        ended = False
        try:
            await self._check_and_handle(scope, receive_counted, send_with_headers)
            ended = True
        finally:
            self._received -= counted
            route = route_of(scope["path"])
            self._metrics.requests.labels(route, str(status[0] if ended else 500)).inc()
            self._metrics.seconds.labels(route).observe(time.monotonic() - began)

    async def _check_and_handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self.check(scope["method"], scope["path"], Headers(scope=scope))
        except ApiError as error:
            await error.response()(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def check(self, method: str, path: str, headers: Mapping[str, str]) -> None:
        """Check that a request may pass.

        Raises:
            ApiError: Its host, origin or key is wrong, or there are too many.
        """
        self._check_host(headers.get("host", ""))
        self._check_origin(headers.get("origin"), headers.get("host", ""))
        # A browser sends OPTIONS without the key to learn whether a page of another origin may send requests.
        if path not in OPEN_PATHS and method != "OPTIONS":
            self._check_key(headers.get("authorization", ""))
        if method == "POST":
            self._require_room()

    def _require_room(self) -> None:
        """Only requests whose body has arrived count, so that slow ones take no place from others."""
        if self._received >= self._max_received:
            raise ApiError(429, "too many requests at once", code="too_many_requests", retry_after=1)

    def _check_host(self, host: str) -> None:
        """A page whose own host name points to 127.0.0.1 (DNS rebinding) is stopped by that name."""
        config = self._config
        name = host_name(host)
        if "*" in config.allowed_hosts or (not config.is_local and not config.allowed_hosts):
            return
        if name not in {*_LOCAL_NAMES, config.host.lower(), *(one.lower() for one in config.allowed_hosts)}:
            problem = f"this server does not answer to the host {name[:100]!r}; serve.allowed_hosts lists names"
            raise ApiError(403, problem, code="host_not_allowed")

    def _check_origin(self, origin: str | None, host: str) -> None:
        if origin is None or origin in self._config.allowed_origins:
            return
        if not _same_host(origin, host):
            problem = f"pages of {origin[:100]!r} may not use this server; serve.allowed_origins lists origins"
            raise ApiError(403, problem, code="origin_not_allowed")

    def _check_key(self, authorization: str) -> None:
        if self._key is None:
            return
        scheme, _, given = authorization.partition(" ")
        # Compared as bytes, in constant time.
        right = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), self._key)
        if scheme.lower() != "bearer" or not right:
            found = "is wrong" if authorization else "is missing"
            raise ApiError(401, f"the API key {found}; send it as Authorization: Bearer …", code="invalid_api_key")


def host_name(host: str) -> str:
    """The name in a Host header, without its port; empty where it is not valid."""
    if any(character in host for character in "/@\\ ?#"):
        return ""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return str(ipaddress.ip_address(name)) if ":" in name else name
    except ValueError:
        return ""


def _same_host(origin: str, host: str) -> bool:
    """Whether an Origin header names the host; an invalid one names none."""
    try:
        return urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False


def route_of(path: str) -> str:
    """The route that a path is counted under: one of a few, whatever the path."""
    if path.startswith("/v1/models/"):
        return "/v1/models"
    return path if path in ROUTES else "other"
