"""The application: routes, and what each gives."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from retro.serve.arriving import Arriving
from retro.serve.choices import CHAT, COMPLETION, Form
from retro.serve.config import ServeConfig
from retro.serve.errors import ApiError
from retro.serve.generation import Generation, stopping, too_late
from retro.serve.metrics import Metrics
from retro.serve.middleware import AccessMiddleware
from retro.serve.model_info import Limits, ModelInfo
from retro.serve.page import page_policy, page_text
from retro.serve.prepare import PreparedRequest, Source, prepare_chat, prepare_completion
from retro.serve.protocol import ChatParameters, CommonParameters, CompletionParameters, read_parameters
from retro.serve.request_body import read_body, read_object
from retro.serve.scheduler import Scheduler
from retro.serve.streaming import AnswerResponse, refused

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Service:
    """What the routes work with."""

    config: ServeConfig
    served: ModelInfo
    scheduler: Scheduler
    metrics: Metrics
    arriving: Arriving

    @property
    def default_source(self) -> Source:
        """Where passages come from when a request does not say."""
        can = self.served.uses_passages and self.served.retrieve is not None
        return "live" if can and self.config.retrieval == "live" else "none"


class Routes:
    """The handlers."""

    def __init__(self, service: Service) -> None:
        self._service, self._limits = service, Limits.of(service.config)

    async def completions(self, request: Request) -> Response:
        """`POST /v1/completions`."""
        return await self._answer(request, COMPLETION)

    async def chat(self, request: Request) -> Response:
        """`POST /v1/chat/completions`."""
        return await self._answer(request, CHAT)

    async def _answer(self, request: Request, form: Form) -> Response:
        service = self._service
        deadline = asyncio.get_running_loop().time() + service.config.seconds_per_request
        try:
            async with service.arriving.limited(request.stream()) as parts:
                body = await read_body(request.headers, parts, service.config.max_body_bytes)
        except ClientDisconnect:
            return Response(status_code=499)
        try:
            async with asyncio.timeout_at(deadline):
                # A long prompt takes a while to be read; others must not wait for it.
                ask = await asyncio.to_thread(self._ask, body, form)
        except TimeoutError:
            raise too_late() from None
        answering = Generation(ask, service.scheduler, service.metrics, deadline)
        return AnswerResponse(answering, form, service.served, deadline)

    def _ask(self, body: bytes, form: Form) -> PreparedRequest:
        data = read_object(body)
        if form is CHAT:
            chat = read_parameters(ChatParameters, data)
            self._require_model(chat)
            return prepare_chat(chat, self._service.served, self._limits, self._service.default_source)
        plain = read_parameters(CompletionParameters, data)
        self._require_model(plain)
        return prepare_completion(plain, self._service.served, self._limits, self._service.default_source)

    def _require_model(self, given: CommonParameters) -> None:
        name = self._service.served.name
        if given.model not in (None, name):
            message = f"model: {given.model[:100]!r} is not served here; this is {name!r}"
            raise ApiError(404, message, param="model", code="model_not_found")

    async def models(self) -> Response:
        """`GET /v1/models`."""
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, name: str) -> Response:
        """`GET /v1/models/NAME`."""
        if name != self._service.served.name:
            raise ApiError(404, f"{name[:100]!r} is not served here", param="model", code="model_not_found")
        return JSONResponse(self._model())

    def _model(self) -> dict[str, Any]:
        served, config = self._service.served, self._service.config
        sources = ["none", *(["given"] if served.uses_passages else [])]
        if served.uses_passages and served.retrieve is not None:
            sources.append("live")
        return {
            "id": served.name,
            "object": "model",
            "created": served.created,
            "owned_by": "retro",
            "max_model_len": served.sequence_length,
            "max_new_tokens": config.max_new_tokens,
            "retrieval": {
                "default": self._service.default_source,
                "sources": sources,
                "chunk_length": served.chunk_length,
                "k": served.neighbors,
                "max_k": config.max_passages,
            },
        }

    async def health(self) -> Response:
        """`GET /health`: 200 while requests are taken and answered."""
        return self._health(ready=True)

    async def live(self) -> Response:
        """`GET /health/live`: 200 while it makes sense to wait; otherwise the process is to be started anew."""
        return self._health(ready=False)

    def _health(self, *, ready: bool) -> Response:
        health = self._service.scheduler.health()
        live = health.state in ("ok", "stopping")
        good = health.state == "ok" if ready else live
        numbers = {"running": health.running, "waiting": health.waiting, "failed_steps": health.failures}
        body = {"status": health.state, "live": live, "ready": health.state == "ok", **numbers}
        return JSONResponse(body, status_code=200 if good else 503)

    async def metrics(self) -> Response:
        """`GET /metrics`, for Prometheus."""
        text = self._service.metrics.text()
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def page(self) -> Response:
        """`GET /`: the page to ask on."""
        text = page_text()
        return Response(text, media_type="text/html", headers={"Content-Security-Policy": page_policy(text)})


def make_app(service: Service) -> FastAPI:
    """The ASGI application.

    Args:
        service: Its scheduler has been started.
    """
    # No /docs: its page loads scripts from elsewhere.
    app = FastAPI(title="retro", docs_url=None, redoc_url=None, openapi_url=None)
    routes = Routes(service)
    for path, endpoint, method in (
        ("/v1/completions", routes.completions, "POST"),
        ("/v1/chat/completions", routes.chat, "POST"),
        ("/v1/models", routes.models, "GET"),
        ("/v1/models/{name:path}", routes.model, "GET"),
        ("/health", routes.health, "GET"),
        ("/health/live", routes.live, "GET"),
        ("/metrics", routes.metrics, "GET"),
        ("/", routes.page, "GET"),
    ):
        app.add_api_route(path, endpoint, methods=[method], response_model=None)
    app.add_exception_handler(ApiError, _refused)
    app.add_exception_handler(HTTPException, _not_here)
    app.add_exception_handler(Exception, _failed)
    service.metrics.watch("retro_running", "Answers being generated.", lambda: service.scheduler.health().running)
    service.metrics.watch(
        "retro_waiting", "Answers accepted and not begun.", lambda: service.scheduler.health().waiting
    )
    if service.config.allowed_origins:
        origins = list(service.config.allowed_origins)
        app.add_middleware(CORSMiddleware, allow_origins=origins, allow_methods=["GET", "POST"], allow_headers=["*"])
    app.add_middleware(AccessMiddleware, config=service.config, metrics=service.metrics)
    return app


async def _refused(request: Request, error: Exception) -> Response:
    return refused(error if isinstance(error, ApiError) else stopping())


async def _not_here(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    known = {404: "there is nothing at this path", 405: "this path takes another method"}
    return refused(ApiError(status, known.get(status, "the request cannot be answered"), code="not_found"))


async def _failed(request: Request, error: Exception) -> Response:
    # Starlette raises it again afterwards, so that the log has it.
    return refused(ApiError(500, "the server failed; its log says why", code="server_error"))
