"""JSON files that people bring: one list, or one object per line, every item with the place where it stands."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retro.common import input_files
from retro.common.errors import DataError
from retro.common.json_text import DeepJsonError, JsonError, LongNumberError, parse_json

MAX_TEXT_BYTES = 1 << 33
"""A file of questions is read whole; one of this size takes some tens of GB."""
OnBad = Callable[[str, DataError], None]
"""What to do about an item that cannot be used: told the reason in a word, and the error that would be raised."""


@dataclass(frozen=True)
class JsonItem:
    """One object of a file."""

    number: int
    """Counted from 0."""
    place: str
    """Where it stands, for messages: `item 6`, or `line 7 (item 6)`."""
    value: dict[str, Any]


def read_text(path: Path, what: str = "question file") -> str:
    """The text of a file that a user brought.

    Raises:
        DataError: It is missing, is no file, or is not UTF-8.
    """
    remedy = "Check the path, and give a UTF-8 file"
    return input_files.read_text(path, remedy, limit=MAX_TEXT_BYTES, error=DataError, missing=f"no such {what}")


def json_items(path: Path, text: str, *, on_bad: OnBad | None = None) -> Iterator[JsonItem]:
    """The objects of a JSON list, or of a file with one object per line; blank lines are passed over.

    Args:
        path: Named in errors.
        text: What the file holds.
        on_bad: Told of broken lines and of items that are no objects, which are then passed over; without it, the
            first of them is raised.

    Raises:
        DataError: The JSON is broken, or an item is no object.
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
        DataError: It is no object, or holds half a character.
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


def load_json(path: Path, text: str) -> Any:
    """The one JSON value that a text is.

    Raises:
        DataError: It is broken or has a number of thousands of digits, with line and column; or nests too deep.
    """
    try:
        return parse_json(text)
    except JsonError as error:
        raise _as_data_error(path, error, "", f"line {error.line}, column {error.column}") from None


def _as_data_error(path: Path, error: JsonError, place: str, where: str) -> DataError:
    """What cannot be read at a place of a file: `line 7 (item 6)`, or nothing for the file itself."""
    if isinstance(error, DeepJsonError):
        return DataError(path, f"{place} nests too deep to be read".lstrip(), "Mend or remove it")
    if isinstance(error, LongNumberError):
        problem = f"{place} has a number of too many digits at {where}"
        return DataError(path, problem.lstrip(), "Write it as a text, in quotes, or remove it")
    detail = error.problem.removeprefix("broken JSON: ")
    problem = f"{place} is broken JSON at {where}: {detail}" if place else f"broken JSON at {where}: {detail}"
    remedy = "Mend or remove the line; a file is one JSON list, or one whole object per line"
    return DataError(path, problem, remedy if place else "Mend or remove that place")


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
            error = _as_data_error(path, cause, place, f"column {cause.column}")
            if on_bad is None:
                raise error from None
            on_bad("broken_json", error)
            continue
        yield number, place, item
