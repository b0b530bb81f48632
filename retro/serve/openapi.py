"""The document at /openapi.json: FastAPI's, with every error, the events of streams, and the bounds of this server."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from retro.serve.config import ServeConfig
from retro.serve.middleware import OPEN_PATHS
from retro.serve.model_info import Limits, ModelInfo
from retro.serve.protocol import LARGEST_SEED
from retro.serve.responses import ChatChunk, CompletionChunk, ErrorResponse, ResponseModel

_ERRORS = {
    400: "A parameter or the body is wrong; `param` names the parameter.",
    401: "The API key is missing or wrong.",
    403: "The host or the origin may not use this server.",
    404: "The model is not served here.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body is not application/json.",
    429: "Too many requests; `Retry-After` says when to try again.",
    500: "The server failed; its log says why.",
    503: "The server is stopping.",
    504: "The answer took too long.",
}
_REF = "#/components/schemas/{model}"


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route that fails with these statuses, and with those of every route."""
    return {one: {"model": ErrorResponse, "description": _ERRORS[one]} for one in sorted({*statuses, 403, 500})}


def every_error_response() -> dict[int | str, dict[str, Any]]:
    """`responses` of a route that may fail in every way."""
    return error_responses(*_ERRORS)


def answer_responses(chunk: type[ResponseModel]) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route that generates: every error, and the events of a stream beside the whole answer."""
    models = [{"$ref": _REF.format(model=one.__name__)} for one in (chunk, ErrorResponse)]
    part = {"type": "string", "contentMediaType": "application/json", "contentSchema": {"anyOf": models}}
    about = "What is new, or an error at which the stream ends; `[DONE]` in the last event."
    data = {"anyOf": [{"const": "[DONE]"}, part], "description": about}
    event = {"type": "object", "properties": {"data": data}, "required": ["data"]}
    content = {"text/event-stream": {"itemSchema": event}}
    whole = {"description": "The answer; with `stream`, its events.", "content": content}
    return {200: whole, **every_error_response()}


def publish_openapi(app: FastAPI, config: ServeConfig, model: ModelInfo | None) -> None:
    """Have `/openapi.json` say what this server accepts and returns.

    Args:
        app: With all its routes.
        config: Limits of requests, and whether there is a key.
        model: Bounds token ids and chunks; None where passages alone are served.
    """

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, config, model)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _document(app: FastAPI, config: ServeConfig, model: ModelInfo | None) -> dict[str, Any]:
    found = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
    schemas = found["components"]["schemas"]
    parts = (CompletionChunk, ChatChunk) if model is not None else (ErrorResponse,)
    _, chunks = models_json_schema([(one, "serialization") for one in parts], ref_template=_REF)
    for name, schema in chunks["$defs"].items():
        schemas.setdefault(name, schema)
    for path, operations in found["paths"].items():
        for operation in operations.values():
            # FastAPI's own status for invalid parameters; here they are 400.
            operation["responses"].pop("422", None)
            if config.api_key is None:
                operation["responses"].pop("401", None)
            elif path not in OPEN_PATHS:
                operation["security"] = [{"bearer": []}]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    if config.api_key is not None:
        found["components"]["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
    _add_retrieval_bounds(schemas["RetrieveRequest"]["properties"], config)
    if model is not None:
        _add_bounds(schemas, Limits.of(config), model)
    return found


def _add_retrieval_bounds(fields: dict[str, Any], config: ServeConfig) -> None:
    _bound(fields["queries"], "array", "maxItems", config.max_queries)
    _bound(fields["queries"], "string", "maxLength", config.max_query_characters)
    _bound(fields["topk"], "integer", "maximum", config.max_passages)


def _add_bounds(schemas: dict[str, Any], limits: Limits, model: ModelInfo) -> None:
    # The largest seed stands here too because FastAPI writes bounds as floats, which would round it up.
    for name, field, kind, keyword, bound in (
        ("CompletionRequest", "prompt", "integer", "maximum", model.tokenizer.vocab_size - 1),
        ("CompletionRequest", "seed", "integer", "maximum", LARGEST_SEED),
        ("CompletionRequest", "max_tokens", "integer", "maximum", limits.new_tokens),
        ("CompletionRequest", "min_tokens", "integer", "maximum", limits.new_tokens),
        ("CompletionRequest", "n", "integer", "maximum", limits.choices),
        ("ChatRequest", "seed", "integer", "maximum", LARGEST_SEED),
        ("ChatRequest", "max_tokens", "integer", "maximum", limits.new_tokens),
        ("ChatRequest", "max_completion_tokens", "integer", "maximum", limits.new_tokens),
        ("ChatRequest", "min_tokens", "integer", "maximum", limits.new_tokens),
        ("ChatRequest", "n", "integer", "maximum", limits.choices),
        ("RetrievalOptions", "k", "integer", "maximum", limits.passages),
        ("RetrievalOptions", "every", "integer", "maximum", model.chunk_length),
        ("RetrievalOptions", "passages", "array", "maxItems", limits.passages),
    ):
        _bound(schemas[name]["properties"][field], kind, keyword, bound)


def _bound(schema: dict[str, Any], kind: str, keyword: str, bound: int) -> None:
    if schema.get("type") == kind:
        schema[keyword] = bound
    for inner in (*schema.get("anyOf", ()), *([schema["items"]] if "items" in schema else ())):
        _bound(inner, kind, keyword, bound)
