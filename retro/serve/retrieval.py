"""`POST /retrieve`: passages for texts, beside a model or alone. Alone, no language model is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Protocol

from fastapi import APIRouter, Depends, FastAPI, Request
from starlette.responses import Response

from retro.serve.config import ServeConfig
from retro.serve.errors import ApiError, stopping
from retro.serve.middleware import Metrics
from retro.serve.openapi import every_error_response, publish_openapi
from retro.serve.request_body import BodyTimeouts, BoundedBodyRoute
from retro.serve.searches import RetrieveRequest, RetrieveResponse, Search, Searches, check_request
from retro.serve.served import Work, complete_app

retrieving = APIRouter(route_class=BoundedBodyRoute)


class _HasSearches(Protocol):
    @property
    def work(self) -> Work:
        """Says whether the server is stopping."""

    @property
    def config(self) -> ServeConfig:
        """Limits of requests."""

    @property
    def searches(self) -> Searches | None:
        """What searches; None where no index is open."""


async def _searching(request: Request) -> _HasSearches:
    found: _HasSearches = request.app.state.service
    return found


@retrieving.post("/retrieve", response_model=RetrieveResponse, responses=every_error_response())
async def retrieve(
    body: RetrieveRequest, request: Request, service: Annotated[_HasSearches, Depends(_searching)]
) -> Response:
    """Find passages for texts, in Search-R1's protocol."""
    if service.searches is None:
        problem = "this server has no index open; start one with serve.only=retrieval"
        raise ApiError(404, problem, code="retrieval_not_served")
    if service.work.health().state == "stopping":
        raise stopping()
    wanted = check_request(body, service.config)
    deadline: float = request.state.deadline
    found = await service.searches.answer(body.queries, wanted, scores=body.return_scores, deadline=deadline)
    return Response(found, media_type="application/json")


@dataclass(frozen=True, kw_only=True)
class RetrievalService:
    """A server that finds passages and nothing else."""

    config: ServeConfig
    name: str
    searches: Searches
    metrics: Metrics
    body_timeouts: BodyTimeouts

    @property
    def work(self) -> Searches:
        """The searches."""
        return self.searches

    def app(self) -> FastAPI:
        """The ASGI application: `/retrieve`, health checks, metrics, the OpenAPI document."""
        app = FastAPI(title="instruct-retro", summary="Passages for texts", docs_url=None, redoc_url=None)
        app.include_router(retrieving)
        complete_app(app, self)
        publish_openapi(app, self.config, None)
        return app


def retrieval_service(config: ServeConfig, search: Search, name: str) -> RetrievalService:
    """A server over a search.

    Args:
        config: Address, key, limits.
        search: Texts and a number to passages; called by one thread at a time.
        name: What is searched, for the log.
    """
    metrics = Metrics()
    return RetrievalService(
        config=config,
        name=name,
        searches=Searches(search, metrics, config.seconds_per_request),
        metrics=metrics,
        body_timeouts=BodyTimeouts(config.arrival_seconds),
    )
