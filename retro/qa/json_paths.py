"""Finding things in nested JSON by paths such as `data[].paragraphs[].qas[]`.

Names are joined by dots; `[]` goes into each item of a list, `{}` into each value of an object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

MISSING: Final = object()
"""What a path that leads nowhere finds; unlike None, which a file may hold."""

OnBadPart = Callable[[str, str], None]
"""Told of a part that is not what a path needs there: where it is, and a clause that says what was found."""

KEY = "key"
"""Under this name stands, around an item found by `{}`, the key that it was under."""


@dataclass(frozen=True)
class JsonObject:
    """An object inside a file, with the objects around it."""

    name: str
    """Where it is, for messages."""
    around: tuple[Any, ...]
    """From the outermost to the object itself."""
    siblings: Sequence[Any] = ()
    """The list that it is in."""
    number: int = 0
    """Its place in that list."""


def objects_at(name: str, root: Any, path: str, on_bad: OnBadPart | None = None) -> Iterator[JsonObject]:
    """Every object that `path` leads to from `root`, in order.

    Args:
        name: What the root is called in messages.
        root: A JSON value.
        path: Empty: the root itself.
        on_bad: Told of each part that is missing, or is not a list or an object where one is needed; without it they
            are passed over.
    """
    start = JsonObject(name, (root,))
    yield from _walk(start, path.split(".") if path else [], on_bad or _passed_over)


def _passed_over(place: str, problem: str) -> None:
    pass


def _walk(place: JsonObject, segments: Sequence[str], on_bad: OnBadPart) -> Iterator[JsonObject]:
    if not isinstance(place.around[-1], dict) and place.name:
        on_bad(place.name, f"is {_kind(place.around[-1])}, needs to be an object")
        return
    if not segments:
        yield place
        return
    name, kind = _split(segments[0])
    value = _member(place.around[-1], name) if name else place.around[-1]
    for step in _steps(place, name, kind, value, on_bad):
        yield from _walk(step, segments[1:], on_bad)


def _steps(place: JsonObject, name: str, kind: str, value: Any, on_bad: OnBadPart) -> Iterator[JsonObject]:
    where = f"{place.name}.{name}" if place.name and name else place.name or name
    if kind == "[]" and isinstance(value, list):
        for number, item in enumerate(value):
            yield JsonObject(f"{where}[{number}]", (*place.around, item), value, number)
    elif kind == "{}" and isinstance(value, dict):
        for key, item in value.items():
            yield JsonObject(f"{where}[{key!r}]", (*place.around, {KEY: key}, item))
    elif not kind and isinstance(value, dict):
        yield JsonObject(where, (*place.around, value))
    else:
        on_bad(where or "the file", f"is {_kind(value)}, needs to be {'a list' if kind == '[]' else 'an object'}")


def _kind(value: Any) -> str:
    if value is MISSING:
        return "missing"
    return "null" if value is None else f"a {type(value).__name__}"


def find(place: JsonObject, path: str) -> Any:
    """What is at `path`, or MISSING.

    The first name may be that of an object around. `a[].b` is the list of all the b; `a[].b[]` joins their lists.
    """
    first, *rest = path.split(".")
    name, kind = _split(first)
    for owner in reversed(place.around):
        value = _member(owner, name)
        if value is not MISSING:
            return _into(value, kind, rest)
    return MISSING


def _into(value: Any, kind: str, rest: Sequence[str]) -> Any:
    if not kind:
        return _down(value, rest)
    many = value.values() if kind == "{}" and isinstance(value, dict) else value if isinstance(value, list) else None
    if many is None:
        return MISSING
    found = [one for item in many if (one := _down(item, rest)) is not MISSING]
    if any(_split(segment)[1] for segment in rest):
        # A list within a list: `a[].b[]` is one list.
        found = [one for inner in found for one in inner]
    return found if found or not many else MISSING


def _down(value: Any, segments: Sequence[str]) -> Any:
    if not segments:
        return value
    name, kind = _split(segments[0])
    inner = _member(value, name)
    return MISSING if inner is MISSING else _into(inner, kind, segments[1:])


def _member(owner: Any, name: str) -> Any:
    return owner.get(name, MISSING) if isinstance(owner, dict) else MISSING


def _split(segment: str) -> tuple[str, str]:
    kind = segment[-2:] if segment.endswith(("[]", "{}")) else ""
    return segment.removesuffix(kind) if kind else segment, kind
