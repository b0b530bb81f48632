"""The published OpenAPI document: it lists every route, describes every field, and is true of what the server does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from retro.serve.app import make_app
from retro.serve.config import ServeConfig
from retro.serve.middleware import ROUTES, route_of
from tests.serve.fake_server import fake_service

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
GENERATING = ("/v1/completions", "/v1/chat/completions")
SETTINGS = settings(
    max_examples=40, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
def api() -> Iterator[Any]:
    service = fake_service(ServeConfig(allowed_hosts=("*",), max_new_tokens=20))
    service.scheduler.start()
    yield schemathesis.openapi.from_asgi("/openapi.json", make_app(service))
    service.scheduler.close()


def sendable(value: Any) -> Any:
    """The same body, but for what JSON Schema cannot say: integers are written without a point here."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [sendable(one) for one in value]
    return {name: sendable(one) for name, one in value.items()} if isinstance(value, dict) else value


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", GENERATING)
def test_valid_requests_get_what_the_document_promises(api: Any, path: str, stream: bool) -> None:
    answered = 0

    @SETTINGS
    @given(case=api[path]["POST"].as_strategy(generation_mode=GenerationMode.POSITIVE))
    def check(case: Any) -> None:
        nonlocal answered
        case.body = sendable(case.body) | {"stream": stream}
        if "messages" in case.body:  # no schema says either that the last one is the user's
            case.body["messages"].append({"role": "user", "content": "Who?"})
        response = case.call_and_validate(checks=CHECKS)
        answered += response.status_code == 200

    check()
    assert answered > 10


@pytest.mark.parametrize("path", GENERATING)
def test_invalid_requests_are_refused_with_a_documented_error(api: Any, path: str) -> None:
    @SETTINGS
    @given(case=api[path]["POST"].as_strategy(generation_mode=GenerationMode.NEGATIVE))
    def check(case: Any) -> None:
        case.call_and_validate(checks=CHECKS)

    check()


@pytest.mark.parametrize("path", ["/", "/health", "/health/live", "/metrics", "/v1/models", "/v1/models/{name}"])
def test_the_other_routes_are_as_documented(api: Any, path: str) -> None:
    @SETTINGS
    @given(case=api[path]["GET"].as_strategy())
    def check(case: Any) -> None:
        case.call_and_validate(checks=CHECKS)

    check()


def test_every_route_is_listed_and_every_field_of_a_request_is_described() -> None:
    document = make_app(fake_service()).openapi()
    assert {route_of(path) for path in document["paths"]} == {*ROUTES} - {"/openapi.json"}
    assert "/v1/models/{name}" in document["paths"]
    schemas = document["components"]["schemas"]
    requests = ("CompletionRequest", "ChatRequest", "Message", "MessagePart", "RetrievalOptions", "Passage")
    missing = [
        f"{name}.{field}"
        for name in (*requests, "StreamOptions")
        for field, schema in schemas[name]["properties"].items()
        if not schema.get("description")
    ]
    assert missing == []


def test_the_document_has_the_bounds_of_this_server_and_asks_for_its_key() -> None:
    config = ServeConfig(max_new_tokens=33, max_passages=5, max_choices=6, api_key="sk-0123456789")
    document = make_app(fake_service(config)).openapi()
    fields = document["components"]["schemas"]["ChatRequest"]["properties"]
    assert fields["max_completion_tokens"]["anyOf"][0] == {"type": "integer", "minimum": 1, "maximum": 33}
    assert fields["n"]["anyOf"][0]["maximum"] == 6
    assert fields["seed"]["anyOf"][0]["maximum"] == 2**63 - 1
    options = document["components"]["schemas"]["RetrievalOptions"]["properties"]
    assert options["passages"]["anyOf"][0]["maxItems"] == 5
    assert document["paths"]["/v1/chat/completions"]["post"]["security"] == [{"bearer": []}]
    assert "security" not in document["paths"]["/health"]["get"]
    assert "401" in document["paths"]["/metrics"]["get"]["responses"]
    assert "401" not in make_app(fake_service()).openapi()["paths"]["/metrics"]["get"]["responses"]
    assert "422" not in document["paths"]["/v1/chat/completions"]["post"]["responses"]
