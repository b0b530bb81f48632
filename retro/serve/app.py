"""The application: its routes, and the page at `/`."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Path, Request
from fastapi.middleware.cors import CORSMiddleware
from starlette.responses import HTMLResponse, Response

from retro.serve.choices import Route
from retro.serve.config import ServeConfig
from retro.serve.errors import ApiError, add_error_handlers
from retro.serve.generation import Generation
from retro.serve.middleware import AccessMiddleware, Metrics
from retro.serve.model_info import Limits, ModelInfo
from retro.serve.openapi import answer_responses, error_responses, publish_openapi
from retro.serve.prepare import PreparedRequest, prepare_chat, prepare_completion
from retro.serve.protocol import ChatRequest, CompletionRequest
from retro.serve.request_body import BodyTimeouts, BoundedBodyRoute, run_in_thread
from retro.serve.responses import (
    ChatChunk,
    ChatResponse,
    CompletionChunk,
    CompletionResponse,
    HealthResponse,
    ModelCard,
    ModelList,
)
from retro.serve.scheduler import Scheduler
from retro.serve.streaming import AnswerResponse


@dataclass(frozen=True, kw_only=True)
class Service:
    """What the routes work with."""

    config: ServeConfig
    model: ModelInfo
    """What answers requests that name no model."""
    scheduler: Scheduler
    metrics: Metrics
    body_timeouts: BodyTimeouts
    adapters: tuple[ModelInfo, ...] = ()
    """Adapters of the model, which requests choose by name."""

    @property
    def models(self) -> dict[str, ModelInfo]:
        """All of them by name, the base first."""
        return {one.name: one for one in (self.model, *self.adapters)}

    def find_model(self, name: str, shown: str) -> ModelInfo:
        """The model of a name.

        Args:
            name: As a request gives it.
            shown: What to put before the name in a message.

        Raises:
            ApiError: There is none; those that there are are named.
        """
        found = self.models.get(name)
        if found is None:
            known = ", ".join(map(repr, self.models))
            message = f"{shown}{name[:100]!r} is not served here; served are: {known}"
            raise ApiError(404, message, param="model", code="model_not_found")
        return found


async def _service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


ServiceOf = Annotated[Service, Depends(_service_of)]
generating, reading = APIRouter(route_class=BoundedBodyRoute), APIRouter()


@generating.post("/v1/completions", response_model=CompletionResponse, responses=answer_responses(CompletionChunk))
async def complete(body: CompletionRequest, request: Request, service: ServiceOf) -> Response:
    """Continue one or more prompts."""
    return await _answer(body, request, service)


@generating.post("/v1/chat/completions", response_model=ChatResponse, responses=answer_responses(ChatChunk))
async def chat(body: ChatRequest, request: Request, service: ServiceOf) -> Response:
    """Answer the last message of a conversation."""
    return await _answer(body, request, service)


async def _answer(body: CompletionRequest | ChatRequest, request: Request, service: Service) -> Response:
    deadline: float = request.state.deadline
    model = service.model if body.model is None else service.find_model(body.model, "model: ")
    prepared = await run_in_thread(deadline, _prepare, body, service, model)
    generation = Generation(prepared, service.scheduler, service.metrics, deadline)
    route: Route = "chat" if isinstance(body, ChatRequest) else "completion"
    return AnswerResponse(generation, route, model)


def _prepare(body: CompletionRequest | ChatRequest, service: Service, model: ModelInfo) -> PreparedRequest:
    limits = Limits.of(service.config)
    default = model.default_source(service.config)
    if isinstance(body, ChatRequest):
        return prepare_chat(body, model, limits, default)
    return prepare_completion(body, model, limits, default)


@reading.get("/v1/models", responses=error_responses(401))
async def models(service: ServiceOf) -> ModelList:
    """List the served model and the adapters on it."""
    return ModelList(object="list", data=[one.card(service.config) for one in service.models.values()])


@reading.get("/v1/models/{name:path}", responses=error_responses(401, 404))
async def model(name: Annotated[str, Path(description="As in /v1/models.")], service: ServiceOf) -> ModelCard:
    """Describe a served model."""
    return service.find_model(name, "").card(service.config)


_HEALTH_RESPONSES = error_responses() | {503: {"model": HealthResponse, "description": "It is not."}}


@reading.get("/health", responses=_HEALTH_RESPONSES)
async def health(service: ServiceOf, response: Response) -> HealthResponse:
    """Tell whether requests are accepted and answered."""
    found = _health(service)
    response.status_code = 200 if found.ready else 503
    return found


@reading.get("/health/live", responses=_HEALTH_RESPONSES)
async def live(service: ServiceOf, response: Response) -> HealthResponse:
    """Tell whether the process is worth keeping; otherwise only a new one will help."""
    found = _health(service)
    response.status_code = 200 if found.live else 503
    return found


def _health(service: Service) -> HealthResponse:
    health = service.scheduler.health()
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


@reading.get("/metrics", response_class=MetricsResponse, responses=error_responses(401))
async def metrics(service: ServiceOf) -> Response:
    """Metrics for Prometheus."""
    return MetricsResponse(service.metrics.text())


@reading.get("/", response_class=HTMLResponse, responses=error_responses())
async def page() -> Response:
    """A page to ask questions on."""
    text = page_text()
    return HTMLResponse(text, headers={"Content-Security-Policy": page_policy(text)})


@cache
def page_text() -> str:
    """The page: one file that loads nothing."""
    return resources.files("retro.serve").joinpath("page.html").read_text(encoding="utf-8")


@cache
def page_policy(text: str) -> str:
    """The Content-Security-Policy of a page: its own inline script and style by their hash, and its own server."""
    script = " ".join(_hashes("script", text)) or "'none'"
    style = " ".join(_hashes("style", text)) or "'none'"
    return (
        f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hashes(element: str, text: str) -> list[str]:
    found = re.findall(rf"<{element}>(.*?)</{element}>", text, flags=re.DOTALL)
    digests = (hashlib.sha256(one.encode("utf-8")).digest() for one in found)
    return [f"'sha256-{base64.b64encode(digest).decode('ascii')}'" for digest in digests]


def make_app(service: Service) -> FastAPI:
    """The ASGI application.

    Args:
        service: Its scheduler has been started.
    """
    # No /docs: its page loads scripts from another server.
    app = FastAPI(
        title="instruct-retro", summary="OpenAI's API over a retrieval-augmented model", docs_url=None, redoc_url=None
    )
    app.state.service = service
    app.include_router(generating)
    app.include_router(reading)
    add_error_handlers(app)
    publish_openapi(app, service.config, service.model)
    scheduler, config = service.scheduler, service.config
    service.metrics.watch("retro_running", "Answers being generated.", lambda: scheduler.health().running)
    service.metrics.watch("retro_waiting", "Answers accepted and not begun.", lambda: scheduler.health().waiting)
    if config.allowed_origins:
        origins = list(config.allowed_origins)
        app.add_middleware(CORSMiddleware, allow_origins=origins, allow_methods=["GET", "POST"], allow_headers=["*"])
    app.add_middleware(AccessMiddleware, config=config, metrics=service.metrics)
    return app
