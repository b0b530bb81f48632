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
from starlette.responses import HTMLResponse, Response

from retro.serve.choices import Route
from retro.serve.config import ServeConfig
from retro.serve.errors import ApiError
from retro.serve.generation import Generation
from retro.serve.middleware import Metrics
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
    ModelCard,
    ModelList,
)
from retro.serve.retrieval import retrieving
from retro.serve.scheduler import Scheduler
from retro.serve.searches import Searches
from retro.serve.served import complete_app
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
    searches: Searches | None = None
    """What `/retrieve` searches by; None where no index is open."""
    adapters: tuple[ModelInfo, ...] = ()
    """Adapters of the model, which requests choose by name."""

    @property
    def name(self) -> str:
        """What is served, for the log."""
        return self.model.name

    @property
    def work(self) -> Scheduler:
        """What does the work."""
        return self.scheduler

    def app(self) -> FastAPI:
        """The ASGI application."""
        return make_app(self)

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
    for router in (generating, reading, retrieving):
        app.include_router(router)
    complete_app(app, service)
    publish_openapi(app, service.config, service.model)
    return app
