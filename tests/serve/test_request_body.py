"""Bodies that mean harm, or were made by mistake."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from retro.serve.errors import ApiError
from retro.serve.request_body import parse_object, read_body

JSON = {"content-type": "application/json; charset=utf-8"}


async def parts(*given: bytes) -> AsyncIterator[bytes]:
    for part in given:
        yield part


def read(headers: dict[str, str], *given: bytes, limit: int = 10) -> bytes:
    return asyncio.run(read_body(headers, parts(*given), limit))


def test_a_body_is_read_part_by_part_up_to_the_limit() -> None:
    assert read(JSON, b"12345", b"67890") == b"1234567890"


@pytest.mark.parametrize("length", ["11", "-1", "ten", "9" * 30, "0"])
def test_a_body_is_stopped_at_the_limit_whatever_its_content_length(length: str) -> None:
    with pytest.raises(ApiError, match=r"larger than 10 bytes") as caught:
        read(JSON | {"content-length": length}, b"123456", b"789012")
    assert caught.value.status_code == 413


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_another_content_type_than_json_is_refused(kind: str) -> None:
    with pytest.raises(ApiError, match=r"send application/json") as caught:
        read({"content-type": kind}, b"{}")
    assert caught.value.status_code == 415


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "broken JSON: Expecting value at line 1, column 1"),
        (b'{"a": 1', "broken JSON: Expecting ',' delimiter"),
        (b"[1, 2]", "is a JSON list; send an object"),
        (b"null", "is a JSON null"),
        (b'"a"', "is a JSON string"),
        (b"true", "is a JSON boolean"),
        (b"1.5", "is a JSON number"),
        (b'{"a": NaN}', "NaN, which is not a JSON number"),
        (b'{"a": -Infinity}', "-Infinity, which is no"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "a number of too many digits at line 1, column 7"),
        (b'{"a": 1, "b": 2, "a": 3}', "the key 'a' twice"),
        (b'{"a": "\xff"}', "byte 0xff is not UTF-8"),
        (b'{"a": "\\ud800"}', "holds half a surrogate pair"),
        (b'{"\\udfff": ""}', "holds half a surrogate pair"),
        (b'{"a":' + b"[" * 400_000, "nests too deep"),
        (b'{"a":' * 200_000, "nests too deep"),
        (b'{"a":' + b"[" * 400_000 + b"]" * 400_000 + b"}", "nests too deep"),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_a_body_that_is_no_json_object_is_refused_with_the_reason(body: bytes, words: str) -> None:
    with pytest.raises(ApiError, match=words) as caught:
        parse_object(body)
    assert (caught.value.status_code, caught.value.code) == (400, "invalid_json")


def test_whole_pairs_and_escapes_are_text() -> None:
    assert parse_object(b'{"a": "\\ud83d\\ude00 \\u00e4 \\\\ud800"}') == {"a": "😀 ä \\ud800"}


def test_nesting_just_within_python_s_limit_is_refused_or_read_and_never_fails() -> None:
    for depth in range(50, 3000, 50):
        body = b'{"a": "\\u00e4", "b": ' + b"[" * depth + b"]" * depth + b"}"
        try:
            assert parse_object(body)["a"] == "ä"
        except ApiError as error:
            assert "nests" in error.message
