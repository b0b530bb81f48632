"""The one parser of JSON: a value or one error; types that a value must have; files of items with their places."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Lt

from retro.common import input_files
from retro.common.errors import DataError

if TYPE_CHECKING:
    from pydantic import TypeAdapter


MAX_JSON_DEPTH = 100
"""Lists and objects within each other. Python would read some hundreds, and fail later, in whatever walks them."""

Count = Annotated[int, Ge(0), Lt(1 << 63)]
"""A number of things, of bytes, or of a place: what a forged file may not make negative, or larger than an int64."""
_HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")


class JsonError(ValueError):
    """A text is not a JSON value, or none that is read."""

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
    raise _RefusedError(f"{constant}, which is not a JSON number")


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
    """Where the number is that the parser refused: Python reads no more digits than its own limit."""
    found = re.search(rf"(?:\A|[:\[,])\s*-?(\d{{{sys.get_int_max_str_digits() + 1},}})", text)
    return found.start(1) if found else 0


MAX_TEXT_BYTES = 1 << 33
"""A file of questions is read whole; one of this size takes some tens of GB."""
OnBad = Callable[[str, DataError], None]
"""What to do about an item that cannot be used: called with the reason in a word, and the error to be raised."""


@dataclass(frozen=True)
class JsonItem:
    """One object of a file."""

    number: int
    """Counted from 0."""
    place: str
    """Where it is, for messages: `item 6`, or `line 7 (item 6)`."""
    value: dict[str, Any]


def read_text(path: Path, what: str = "question file") -> str:
    """The text of a file that a user brought.

    Raises:
        DataError: It is missing, is not a file, or is not UTF-8.
    """
    remedy = "Check the path, and give a UTF-8 file"
    return input_files.read_text(path, remedy, limit=MAX_TEXT_BYTES, error=DataError, missing=f"no such {what}")


def json_items(path: Path, text: str, *, on_bad: OnBad | None = None) -> Iterator[JsonItem]:
    """The objects of a JSON list, or of a file with one object per line; blank lines are passed over.

    Args:
        path: Named in errors.
        text: What the file holds.
        on_bad: Called for broken lines and of items that are not objects, which are then passed over; without it, the
            first of them is raised.

    Raises:
        DataError: The JSON is broken, or an item is not an object.
    """
    found = _list_items(path, text) if text.lstrip().startswith("[") else _line_items(path, text, on_bad)
    for number, place, value in found:
        problem = _problem(value)
        if problem is not None and on_bad is not None:
            on_bad(problem[0], DataError(path, f"{place} {problem[1]}", problem[2]))
            continue
        yield json_item(path, number, place, value)


def json_item(path: Path, number: int, place: str, value: Any) -> JsonItem:
    """A value as an item of a file.

    Raises:
        DataError: It is not an object, or holds half a character.
    """
    problem = _problem(value)
    if problem is not None:
        raise DataError(path, f"{place} {problem[1]}", problem[2])
    return JsonItem(number, place, value)


def _problem(value: Any) -> tuple[str, str, str] | None:
    """Why a value cannot be an item: a word for counting, what was found, what to do."""
    if not isinstance(value, dict):
        found = f"is a {type(value).__name__}"
        return "not_an_object", found, "Every item must be an object with a question and answers"
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        found = f"holds half a character, {error.object[error.start]!r}, which no UTF-8 file can"
        return "broken_character", found, "Write both halves of the \\u escape, or remove it"
    return None


def load_json(path: Path, text: str, *, keys_once: bool = False) -> Any:
    """The one JSON value that a text is.

    Args:
        path: Named in errors.
        text: What the file holds.
        keys_once: Whether a key that an object has twice is an error, instead of counting the last time.

    Raises:
        DataError: It is broken or has a number of thousands of digits, with line and column; or nests too deep.
    """
    try:
        return parse_json(text, keys_once=keys_once)
    except JsonError as error:
        raise json_data_error(path, error, "", f"line {error.line}, column {error.column}") from None


def json_data_error(path: Path, error: JsonError, place: str, where: str) -> DataError:
    """What cannot be read at a place of a file.

    Args:
        path: The file.
        error: What its parser said.
        place: `line 7 (item 6)`, or nothing for the file itself.
        where: Line and column, or the column where the line is named by the place.
    """
    if isinstance(error, DeepJsonError):
        return DataError(path, f"{place} nests too deep to be read".lstrip(), "Fix or remove it")
    if isinstance(error, LongNumberError):
        problem = f"{place} has a number of too many digits at {where}"
        return DataError(path, problem.lstrip(), "Write it as a text, in quotes, or remove it")
    detail = error.problem.removeprefix("broken JSON: ")
    problem = f"{place} is broken JSON at {where}: {detail}" if place else f"broken JSON at {where}: {detail}"
    remedy = "Fix or remove the line; a file is one JSON list, or one whole object per line"
    return DataError(path, problem, remedy if place else "Fix or remove that place")


def _list_items(path: Path, text: str) -> Iterator[tuple[int, str, Any]]:
    for number, item in enumerate(load_json(path, text)):
        yield number, f"item {number}", item


def _line_items(path: Path, text: str, on_bad: OnBad | None) -> Iterator[tuple[int, str, Any]]:
    # Not splitlines(): it also cuts at U+2028 and form feeds, which JSON allows inside a string.
    lines = ((number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip())
    for number, (line_number, line) in enumerate(lines):
        place = f"line {line_number} (item {number})"
        try:
            item = parse_json(line)
        except JsonError as cause:
            error = json_data_error(path, cause, place, f"column {cause.column}")
            if on_bad is None:
                raise error from None
            on_bad("broken_json", error)
            continue
        yield number, place, item
