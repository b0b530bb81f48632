"""What every server has, whatever it answers: health checks, metrics, errors in one form, access control."""

from __future__ import annotations

from typing import Annotated, Protocol

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from starlette.responses import Response

from retro.serve.config import ServeConfig
from retro.serve.errors import add_error_handlers
from retro.serve.middleware import AccessMiddleware, Metrics
from retro.serve.openapi import error_responses
from retro.serve.request_body import BodyTimeouts
from retro.serve.responses import HealthResponse
from retro.serve.scheduler import Health


class Work(Protocol):
    """What does the work of a server, on a thread of its own."""

    def start(self) -> None:
        """Begin to answer."""

    def stop_accepting(self) -> None:
        """Refuse what comes from now on; what was accepted continues."""

    def end(self) -> None:
        """End after the current step; what is unfinished fails."""

    def close(self) -> None:
        """`end`, and wait for the thread."""

    @property
    def unfinished(self) -> int:
        """Accepted and not finished."""

    def health(self) -> Health:
        """The current state."""


class Served(Protocol):
    """A server, before it listens."""

    @property
    def name(self) -> str:
        """What is served, for the log."""

    @property
    def config(self) -> ServeConfig:
        """Address, key, limits."""

    @property
    def metrics(self) -> Metrics:
        """Counts every response."""

    @property
    def body_timeouts(self) -> BodyTimeouts:
        """How long bodies may take to arrive."""

    @property
    def work(self) -> Work:
        """What does the work."""

    def app(self) -> FastAPI:
        """The ASGI application."""


async def _served_by(request: Request) -> Served:
    served: Served = request.app.state.service
    return served


ServedBy = Annotated[Served, Depends(_served_by)]
watching = APIRouter()
_HEALTH_RESPONSES = error_responses() | {503: {"model": HealthResponse, "description": "It is not."}}


@watching.get("/health", responses=_HEALTH_RESPONSES)
async def health(served: ServedBy, response: Response) -> HealthResponse:
    """Tell whether requests are accepted and answered."""
    found = _health(served)
    response.status_code = 200 if found.ready else 503
    return found


@watching.get("/health/live", responses=_HEALTH_RESPONSES)
async def live(served: ServedBy, response: Response) -> HealthResponse:
    """Tell whether the process is worth keeping; otherwise only a new one will help."""
    found = _health(served)
    response.status_code = 200 if found.live else 503
    return found


def _health(served: Served) -> HealthResponse:
    health = served.work.health()
    return HealthResponse(
        status=health.state,
        live=health.state in ("ok", "stopping"),
        ready=health.state == "ok",
        running=health.running,
        waiting=health.waiting,
        failed_steps=health.failures,
    )


class MetricsResponse(Response):
    """Prometheus' text format."""

    media_type = "text/plain; version=0.0.4; charset=utf-8"


@watching.get("/metrics", response_class=MetricsResponse, responses=error_responses(401))
async def metrics(served: ServedBy) -> Response:
    """Metrics for Prometheus."""
    return MetricsResponse(served.metrics.text())


def complete_app(app: FastAPI, served: Served) -> FastAPI:
    """Give an application with all its own routes what every server has."""
    app.state.service = served
    app.include_router(watching)
    add_error_handlers(app)
    work, config = served.work, served.config
    served.metrics.watch("retro_running", "Answers being generated.", lambda: work.health().running)
    served.metrics.watch("retro_waiting", "Answers accepted and not begun.", lambda: work.health().waiting)
    if config.allowed_origins:
        origins = list(config.allowed_origins)
        app.add_middleware(CORSMiddleware, allow_origins=origins, allow_methods=["GET", "POST"], allow_headers=["*"])
    app.add_middleware(AccessMiddleware, config=config, metrics=served.metrics)
    return app
