"""Every field of an item counts: what came before the question is kept as turns, what nobody looks at is counted."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any

from retro.qa.formats.item import ROLES, BadItemError, Converted, Item, optional_text
from retro.qa.question import Question, Turn

SYSTEM_KEYS = ("system", "system_prompt")
HISTORY = "history"


class FieldUse:
    """Which fields of the items of a file were looked at, and which hold something."""

    def __init__(self) -> None:
        self._read: set[str] = set()
        self._there: Counter[str] = Counter()

    def watch(self, item: Mapping[str, Any]) -> Item:
        """The item, whose fields count as looked at once they are asked for."""
        return _TrackedItem(item, "", self)

    def found(self, path: str) -> None:
        """Count a field that holds something."""
        self._there[path] += 1

    def read(self, path: str) -> None:
        """Count a field as looked at."""
        self._read.add(path)

    def ignored(self) -> dict[str, int]:
        """Fields that were never looked at, with the number of objects in which they hold something."""
        return {path: count for path, count in sorted(self._there.items()) if path not in self._read}


class _TrackedItem(dict[str, Any]):
    """A dict that tells which of its keys were asked for; objects within are watched once they are."""

    def __init__(self, item: Mapping[str, Any], owner: str, use: FieldUse) -> None:
        super().__init__(item)
        self._owner, self._use = owner, use
        for key, value in item.items():
            if value not in (None, "", [], {}):
                use.found(owner + key)

    def __getitem__(self, key: str) -> Any:
        self._use.read(self._owner + key)
        value = super().__getitem__(key)
        if isinstance(value, dict) and not isinstance(value, _TrackedItem):
            value = self[key] = _TrackedItem(value, f"{key}.", self._use)
        elif isinstance(value, list):
            value = self[key] = [self._watched(one, f"{key}[].") for one in value]
        return value

    def get(self, key: str, default: Any = None) -> Any:
        """As a dict does."""
        self._use.read(self._owner + key)
        try:
            return self[key]
        except KeyError:
            return default

    def _watched(self, one: Any, owner: str) -> Any:
        plain = isinstance(one, dict) and not isinstance(one, _TrackedItem)
        return _TrackedItem(one, owner, self._use) if plain else one


# Errors name the type of what they found, which to its owner is no other.
_TrackedItem.__name__ = dict.__name__


def with_what_came_before(item: Item, made: list[Converted]) -> list[Converted]:
    """The questions, after the system prompt and the earlier turns that stand in fields of their own.

    Args:
        item: May have `system` or `system_prompt`, a text, and `history`: `[[question, answer], ...]`, or turns with
            `role` and `content`, or `from` and `value`.
        made: The questions made from its other fields.

    Raises:
        BadItemError: Such a field has another layout, or there are two system prompts that differ.
    """
    prompts = dict.fromkeys(text for key in SYSTEM_KEYS if (text := optional_text(item, key)))
    history = _history(item)
    if not prompts and not history:
        return made
    return [dataclasses.replace(one, question=_after(prompts, history, one.question)) for one in made]


def _after(prompts: dict[str, None], history: list[Turn], question: Question) -> Question:
    own = [turn for turn in question.turns if turn.role == "system"]
    systems = list(dict.fromkeys([*prompts, *(turn.text for turn in own)]))
    if len(systems) > 1:
        raise BadItemError("two_system_prompts", f"has the system prompts {systems[0][:40]!r} and {systems[1][:40]!r}")
    turns = [turn for turn in question.turns if turn.role != "system"]
    return dataclasses.replace(question, turns=(*(Turn("system", text) for text in systems), *history, *turns))


def _history(item: Item) -> list[Turn]:
    value = item.get(HISTORY)
    if value in (None, "", []):
        return []
    if not isinstance(value, list):
        raise BadItemError("wrong_type", f"has a {type(value).__name__} in {HISTORY!r}, needs a list of turns")
    turns = [turn for one in value for turn in _earlier(one)]
    for place, turn in enumerate(turns):
        wanted = "assistant" if place % 2 else "user"
        if turn.role != wanted:
            problem = f"has turn {place} of {HISTORY!r} by the {turn.role}, where the {wanted} is to speak"
            raise BadItemError("turns_do_not_alternate", problem)
    if len(turns) % 2:
        raise BadItemError("turns_do_not_alternate", f"has a {HISTORY!r} in which the last turn is not answered")
    return turns


def _earlier(one: Any) -> list[Turn]:
    """The turns of an entry of the history: a pair, or one turn."""
    if isinstance(one, list) and len(one) == 2 and all(isinstance(text, str) and text.strip() for text in one):
        return [Turn("user", one[0].strip()), Turn("assistant", one[1].strip())]
    if isinstance(one, dict):
        role, text = (one.get(a) if one.get(a) is not None else one.get(b) for a, b in _TURN_KEYS)
        if isinstance(role, str) and role in ROLES and isinstance(text, str) and text.strip():
            return [Turn(ROLES[role], text.strip())]
    raise BadItemError("wrong_type", f"has {str(one)[:60]!r} in {HISTORY!r}, needs [question, answer] or a turn")


_TURN_KEYS = (("role", "from"), ("content", "value"))
