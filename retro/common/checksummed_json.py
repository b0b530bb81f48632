"""JSON that carries a checksum of its own text, so that damage to a file that no manifest lists is found too.

    {"checksum": "own-sha256:9f86d081884c7d65", "step": 6, …}

The checksum is taken of the text without it. Reading writes the value again and compares every byte: a flipped bit,
an edit, even other white space is found. A file without a checksum was written by an older version, or by another
program, and is taken as it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from retro.common.json_files import parse_json

CHECKSUM = "checksum"
_PREFIX = "own-sha256:"
_DIGITS = 16
_CHANGED = "was changed after it was written: its own checksum differs"


def document(data: Mapping[str, Any]) -> str:
    """A JSON file's text: sorted, indented, with a checksum of its own.

    Raises:
        ValueError: `data` has an entry of that name.
    """
    return _with_checksum(data, _indented)


def line(data: Mapping[str, Any]) -> str:
    """A line of JSON with a checksum of its own, in the order given, with its line end."""
    return _with_checksum(data, _on_one_line)


def plain_document(data: object) -> str:
    """A JSON file's text for other programs, who expect no more in it than their format has."""
    return json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def check_document(value: Any, text: str) -> tuple[Any, str]:
    """The value that a JSON file's text was parsed to without its checksum, and what is wrong; "" if nothing."""
    return _without_checksum(value, text, _indented)


def parse_line(text: str) -> tuple[Any, str]:
    """The value of a line, given with its line end, without its checksum, and what is wrong with it; "" if nothing.

    Raises:
        JsonError: It is not JSON.
    """
    return _without_checksum(parse_json(text), text, _on_one_line)


def page(html: str) -> str:
    """An HTML page with a checksum of its own, in a comment at its end."""
    return html + _comment(html)


def page_problem(text: str) -> str:
    """What is wrong with a page; empty if nothing, or if it has no checksum."""
    html, comment = text[: -len(_comment(""))], text[-len(_comment("")) :]
    marked = comment.startswith("<!--") or _PREFIX in comment or comment.endswith("-->\n")
    return "" if not marked or comment == _comment(html) else _CHANGED


def _comment(html: str) -> str:
    return f"<!-- {_checksum(html)} -->\n"


def is_covered(text: str) -> bool:
    """Whether a JSON text has a checksum of its own, right or wrong.

    Raises:
        JsonError: It is not JSON.
    """
    return _has_checksum(parse_json(text))


def _indented(data: Mapping[str, Any]) -> str:
    return plain_document(data)


def _on_one_line(data: Mapping[str, Any]) -> str:
    return json.dumps(data, ensure_ascii=False) + "\n"


def _with_checksum(data: Mapping[str, Any], write: Any) -> str:
    if CHECKSUM in data:
        raise ValueError(f"an entry of the name {CHECKSUM!r} is the file's own")
    # As it will be read: keys are text then, and sorted as text.
    plain = json.loads(json.dumps(data, ensure_ascii=False))
    return str(write(plain | {CHECKSUM: _checksum(write(plain))}))


def _without_checksum(value: Any, text: str, write: Any) -> tuple[Any, str]:
    if not _has_checksum(value):
        return value, ""
    rest = {name: one for name, one in value.items() if name != CHECKSUM}
    right = write(rest | {CHECKSUM: _checksum(write(rest))}) == text
    return rest, "" if right else _CHANGED


def _has_checksum(value: Any) -> bool:
    # By what looks like one, whatever its name: either may be what was damaged.
    return isinstance(value, dict) and any(map(_looks_like_a_checksum, value.values()))


def _looks_like_a_checksum(value: object) -> bool:
    if not isinstance(value, str) or len(value) != len(_PREFIX) + _DIGITS:
        return False
    return sum(found == wanted for found, wanted in zip(value, _PREFIX, strict=False)) >= len(_PREFIX) - 2


def _checksum(text: str) -> str:
    return _PREFIX + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]
