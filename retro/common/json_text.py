"""The one parser of JSON: whatever the text is, it gives a value or one error; and types for what a value must hold."""

from __future__ import annotations

import json
import re
import sys
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Lt

if TYPE_CHECKING:
    from pydantic import TypeAdapter

MAX_JSON_DEPTH = 100
"""Lists and objects within each other. Python would read some hundreds, and fail later, in whatever walks them."""

Count = Annotated[int, Ge(0), Lt(1 << 63)]
"""A number of things, of bytes, or of a place: what a forged file may not make negative, or larger than an int64."""
_HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")


class JsonError(ValueError):
    """A text is no JSON value, or none that is read."""

    def __init__(self, problem: str, text: str, at: int) -> None:
        self.problem = problem
        self.line = text.count("\n", 0, at) + 1
        self.column = at - text.rfind("\n", 0, at)
        super().__init__(f"{problem} at line {self.line}, column {self.column}")


class BrokenJsonError(JsonError):
    """It breaks the grammar of JSON."""


class LongNumberError(JsonError):
    """It has a number of more digits than Python reads."""


class DeepJsonError(JsonError):
    """It nests too deep."""


def parse_json(text: str | bytes, *, keys_once: bool = False, finite: bool = False) -> Any:
    """The one value that a JSON text is.

    A `\\u` escape may give half a character; see `half_character`.

    Args:
        text: The text, or its UTF-8 bytes.
        keys_once: Whether a key that an object has twice is an error, instead of counting the last time.
        finite: Whether NaN and Infinity, which no other language writes, are errors.

    Raises:
        JsonError: It is broken, nests deeper than MAX_JSON_DEPTH, or has a number of thousands of digits.
    """
    if isinstance(text, bytes):
        try:
            text = text.decode()
        except UnicodeDecodeError as error:
            raise BrokenJsonError(f"broken JSON: byte 0x{text[error.start]:02x} is not UTF-8", "", 0) from None
    try:
        pairs, constant = _keys_once if keys_once else None, _refuse if finite else None
        value = json.loads(text, object_pairs_hook=pairs, parse_constant=constant)
    except RecursionError:
        raise DeepJsonError("nests too deep", text, 0) from None
    except json.JSONDecodeError as error:
        raise BrokenJsonError(f"broken JSON: {error.msg}", text, error.pos) from None
    except _RefusedError as error:
        raise BrokenJsonError(error.args[0], text, 0) from None
    except ValueError:
        raise LongNumberError("a number of too many digits", text, _long_number(text)) from None
    if text.count("[") + text.count("{") > MAX_JSON_DEPTH and _depth_exceeds(value, MAX_JSON_DEPTH):
        raise DeepJsonError("nests too deep", text, 0)
    return value


def half_character(text: str, value: Any) -> str | None:
    """Half of a surrogate pair that a value has in a text or a key, which no UTF-8 file can hold; None: there is none.

    Args:
        text: What the value was parsed from.
        value: The value.
    """
    if _HALF_CHARACTER.search(text) is None:
        return None
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half: str = error.object[error.start]
        return half
    return None


def wrong_type(value: Any, expect: Any) -> str | None:
    """What is wrong with a JSON value that should be of a type; None if nothing.

    Args:
        value: From `parse_json`.
        expect: A type of plain values: `dict[str, list[Count]]`, a TypedDict; a TypedDict may have other keys beside
            its own. Nothing is converted.
    """
    # Here, because `retro --help` does without it: it takes half of that command's time.
    from pydantic import ValidationError

    try:
        _adapter(expect).validate_python(value, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))
        if first["type"] == "missing":
            return f"has no {place}"
        found = _short(first["input"])
        need = str(first["msg"]).removeprefix("Input should be ").replace("a valid dictionary", "an object")
        return f"holds {found}{f' as {place}' if place else ''}, needed is: {need}"
    return None


@lru_cache(maxsize=128)
def _adapter(expect: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(expect)


def _short(value: object) -> str:
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    text = repr(value) if not isinstance(value, int) or abs(value) < 1 << 64 else "a number of many digits"
    return text if len(text) <= 60 else text[:59] + "…"


class _RefusedError(Exception):
    """What Python's parser would let through."""


def _refuse(constant: str) -> None:
    raise _RefusedError(f"{constant}, which is no JSON number")


def _keys_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen = set[str]()
        key = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _RefusedError(f"the key {key[:80]!r} twice in one object")
    return found


def _depth_exceeds(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit + 1):
        level = [one for one in level if isinstance(one, dict | list)]
        if not level:
            return False
        level = [inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer)]
    return True


def _long_number(text: str) -> int:
    """Where the number stands that the parser refused: Python reads no more digits than its own limit."""
    found = re.search(rf"(?:\A|[:\[,])\s*-?(\d{{{sys.get_int_max_str_digits() + 1},}})", text)
    return found.start(1) if found else 0
