"""Files of JSON lines between the steps of recipes: read strictly, field by field, and written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from retro.common.errors import DataError
from retro.common.files import atomic_path
from retro.common.json_files import json_items, read_text

Item = dict[str, Any]


def read_items(path: Path, required: Sequence[str], what: str) -> list[Item]:
    """The objects of a JSON list, or of a file with one object per line; each has these fields, as texts.

    Other fields that are read as texts are given by `text_field`.

    Args:
        path: The file.
        required: Fields that must be texts with something in them.
        what: What the file is, for messages.

    Raises:
        DataError: The file is missing or broken, empty, or an item lacks a field.
    """
    found = []
    for one in json_items(path, read_text(path, what)):
        for name in required:
            value = one.value.get(name)
            if not isinstance(value, str) or not value.strip():
                problem = f"{one.place} has {'no' if value is None else f'{str(value)[:40]!r} in'} {name!r}"
                raise DataError(path, problem, f"Give each item of the {what} the texts {', '.join(required)}")
        found.append({**one.value, "_place": one.place})
    if not found:
        raise DataError(path, f"has no items: it is the {what}", "Give one JSON object per line")
    return found


def text_field(path: Path, item: Mapping[str, Any], name: str) -> str:
    """A field that may be missing, and is a text, or a list of texts that is joined, where it is there.

    Raises:
        DataError: It is something else.
    """
    value = item.get(name)
    if value is None:
        return ""
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return " ".join(value).strip()
    if not isinstance(value, str):
        raise DataError(path, f"{item['_place']} has {str(value)[:40]!r} in {name!r}", "Give a text")
    return value.strip()


def write_items(path: Path, items: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object per line; fields that begin with `_` are left out."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as target:
        for one in items:
            kept = {name: value for name, value in one.items() if not name.startswith("_")}
            target.write(json.dumps(kept, ensure_ascii=False) + "\n")
