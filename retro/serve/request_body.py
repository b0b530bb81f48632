"""The body of a request as JSON that can do no harm: bounded while it is read, finite, UTF-8 to the last letter."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from retro.common.json_text import DeepJsonError, JsonError, half_character, parse_json
from retro.serve.errors import ApiError


async def read_body(headers: Mapping[str, str], parts: AsyncIterator[bytes], limit: int) -> bytes:
    """Read a body, and stop as soon as it is too long.

    Args:
        headers: Of the request; a client that says a wrong length is stopped all the same.
        parts: The body as it comes in.
        limit: Most bytes.

    Raises:
        ApiError: It is longer, or is not said to be JSON. A page of another origin can send what is not JSON
            without asking, so that is no formality.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, f"Content-Type is {kind or 'missing'!r}; send application/json")
    said = headers.get("content-length", "0")
    if not said.isdecimal() or len(said) > 18 or int(said) > limit:
        raise _too_long(limit)
    body = bytearray()
    async for part in parts:
        body += part
        if len(body) > limit:
            raise _too_long(limit)
    return bytes(body)


def _too_long(limit: int) -> ApiError:
    return ApiError(413, f"the body is larger than {limit:,} bytes, the limit of this server", code="body_too_large")


def read_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a body.

    Raises:
        ApiError: It is no JSON object; or has NaN, a number of thousands of digits, a key twice, thousands of
            brackets in each other, or half a surrogate pair, which is no text.
    """
    try:
        data = parse_json(body, keys_once=True, finite=True)
    except DeepJsonError:
        raise _not_json("nests too deep") from None
    except JsonError as error:
        raise _not_json(f"is not JSON that is read: {error}") from None
    if not isinstance(data, dict):
        raise _not_json(f"is a JSON {_json_name(data)}; send an object")
    if half_character(body.decode(), data) is not None:
        raise _not_json("holds half a surrogate pair (\\ud800 to \\udfff alone), which is no text")
    return data


def _not_json(problem: str) -> ApiError:
    return ApiError(400, f"the body {problem}", code="invalid_json")


def _json_name(value: object) -> str:
    names = {list: "list", str: "string", int: "number", float: "number", bool: "boolean", type(None): "null"}
    return names.get(type(value), "value")
