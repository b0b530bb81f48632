"""Replies of a teacher, read strictly: one line `+ Field: value` for each field that was asked for, in order."""

from __future__ import annotations

import re
from collections.abc import Sequence

from retro.qa.formats.item import BadItemError
from retro.teacher.request import Completion

_LINE = re.compile(r"\+ *(?P<name>[^:]+?) *:(?P<value>.*)")
# What stands in a template, and nobody put something in its place: <entity>, {question}, [City name], Entity 1, N/A.
_PLACEHOLDER = re.compile(
    r"[<{\[]\s*[A-Za-z][^<>{}\[\]]*[>}\]]|\b(?:entity|attribute) [12]\b|^(?:n/?a|tbd|unknown|[.…_-]+)$", re.IGNORECASE
)


def fields_of_completion(reply: Completion, names: Sequence[str], *, quoted: str = "") -> dict[str, str]:
    """The fields of a reply that the teacher ended itself.

    Raises:
        BadItemError: It was cut at its most tokens, within whatever field; or as `fields_of` says.
    """
    if reply.finish_reason == "length":
        raise BadItemError("cut_at_max_tokens", f"ends at max_tokens: {reply.text[-60:]!r}")
    return fields_of(reply.text, names, quoted=quoted)


def fields_of(reply: str, names: Sequence[str], *, quoted: str = "") -> dict[str, str]:
    """The fields of a reply.

    Args:
        reply: What the teacher wrote.
        names: Of all its fields, in order.
        quoted: A text that it may quote: what stands there in brackets is no placeholder.

    Raises:
        BadItemError: A field is missing, there twice, unknown, empty, a placeholder, or not in its place; or there is
            text outside of fields. The reason says which of these.
    """
    found: dict[str, str] = {}
    for line in filter(None, map(str.strip, reply.split("\n"))):
        match = _LINE.fullmatch(line)
        if match is None:
            raise BadItemError("text_outside_fields", f"has a line that is no field: {line[:60]!r}")
        name, value = match["name"], match["value"].strip()
        _require_usual(name, value, names, found, quoted)
        found[name] = value
    missing = [name for name in names if name not in found]
    if missing:
        raise BadItemError("missing_field", f"has no field {missing[0]!r}")
    if list(found) != list(names):
        raise BadItemError("fields_out_of_order", f"has its fields in the order {', '.join(found)}")
    return found


def _require_usual(name: str, value: str, names: Sequence[str], found: dict[str, str], quoted: str) -> None:
    if name not in names:
        raise BadItemError("unknown_field", f"has a field {name[:60]!r}")
    if name in found:
        raise BadItemError("field_twice", f"has the field {name!r} twice")
    if not value:
        raise BadItemError("empty_field", f"has nothing in the field {name!r}")
    placeholder = next((one[0] for one in _PLACEHOLDER.finditer(value) if one[0] not in quoted), "")
    if placeholder:
        raise BadItemError("placeholder", f"has the placeholder {placeholder[:60]!r} in the field {name!r}")
