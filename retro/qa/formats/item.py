"""Items of a public file: from one, questions or the reason why it cannot be used; and which fields were read."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from retro.qa.question import Context, Question, Role, Turn

ROLES: Mapping[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
}
"""Who speaks, under the names that public files have for it."""


class BadItemError(Exception):
    """An item cannot be used. `reason` is a word for counting, `problem` says what was found."""

    def __init__(self, reason: str, problem: str) -> None:
        super().__init__(f"{reason}: {problem}")
        self.reason = reason
        self.problem = problem


@dataclass(frozen=True, kw_only=True)
class Options:
    """What some formats can be asked for; the others have no use for it."""

    turns: Literal["last", "every"] = "last"
    """Conversations: one question for the assistant's last turn, or one for each of its turns."""
    paths: Literal["best", "all"] = "best"
    """OASST: the conversation of the best-ranked replies of each tree, or all from the root to a leaf."""
    language: str = ""
    """OASST: only trees whose prompt is in this language, such as `en`; empty: all."""
    passages: bool = False
    """Dolly: its context becomes a passage, and not a part of the question."""


@dataclass(frozen=True)
class Converted:
    """A question made from an item."""

    question: Question
    gold: Sequence[int] = ()
    """Which of its contexts hold the answer."""
    group: str = ""
    """What it must not be parted from by a split into train and dev; empty: nothing."""


Item = Mapping[str, Any]
Convert = Callable[[Item, str, Options], list[Converted]]
"""From an item and its number to its questions; none where the options leave it out."""


@dataclass(frozen=True)
class Format:
    """A public format."""

    summary: str
    """One line of help."""
    convert: Convert
    items: str = ""
    """Where the items are in the one JSON object that a file of it is, as `json_paths` has it, such as
    `data[].paragraphs[].qas[]`; empty: the file is a list, or one object per line."""
    outer: tuple[str, ...] = ()
    """Fields of the objects around an item that belong to it."""
    options: tuple[str, ...] = field(default=())
    """Which of the options it uses."""


def text_of(item: Item, key: str, what: str) -> str:
    """A field that must be a text with something in it.

    Raises:
        BadItemError: It is missing, blank, or no text; the reason is `no_<what>` or `wrong_type`.
    """
    value = item.get(key)
    if value is not None and not isinstance(value, str):
        raise BadItemError("wrong_type", f"has a {type(value).__name__} in {key!r}, needs a text")
    if value is None or not value.strip():
        found = f"has no {key!r}" if value is None else f"has a blank {key!r}"
        raise BadItemError(f"no_{what}", found)
    return value.strip()


def optional_text(item: Item, key: str) -> str:
    """A field that may be missing or blank, but is a text where it is there.

    Raises:
        BadItemError: It is not text.
    """
    value = item.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadItemError("wrong_type", f"has a {type(value).__name__} in {key!r}, needs a text")
    return value.strip()


def texts_of(item: Item, key: str) -> tuple[str, ...]:
    """The distinct texts of a list that hold something, in order; a text alone is a list of one.

    Raises:
        BadItemError: The field is missing, or not of texts, or all of them are blank.
    """
    value = item.get(key)
    if value is None:
        raise BadItemError("no_answer", f"has no {key!r}")
    many = [value] if isinstance(value, str) else value
    if not isinstance(many, list) or not all(isinstance(one, str) for one in many):
        raise BadItemError("wrong_type", f"has {str(value)[:60]!r} in {key!r}, needs a list of texts")
    kept = tuple(dict.fromkeys(one.strip() for one in many if one.strip()))
    if not kept:
        raise BadItemError("no_answer", f"has {key!r} = {value!r}")
    return kept


def id_of(item: Item, number: str, *keys: str) -> str:
    """The first of these fields that is an id, or the item's number."""
    found = (item[key] for key in keys if isinstance(item.get(key), str | int) and str(item[key]).strip())
    return str(next(found, number))


def record(question: Question) -> dict[str, Any]:
    """A question as the toolkit's question format has it; what is empty is left out."""
    made: dict[str, Any] = {"id": question.id, "question": question.question}
    if question.turns:
        made["turns"] = [_turn(turn) for turn in question.turns]
    made["answers"] = [] if question.unanswerable else list(question.answers)
    if question.unanswerable:
        made["is_impossible"] = True
    if question.options:
        made |= {"qa_type": "multi_choice_qa", "multichoice_options": list(question.options)}
    if question.contexts:
        made["ctxs"] = [_passage(context, question.document_ids) for context in question.contexts]
    if question.document_ids:
        made["document_ids"] = list(question.document_ids)
    return made


def _turn(turn: Turn) -> dict[str, str]:
    return {"role": turn.role, "text": turn.text}


def _passage(context: Context, gold: Sequence[str]) -> dict[str, Any]:
    made: dict[str, Any] = {"document_id": context.document_id, "title": context.title, "text": context.text}
    return made | {"gold": context.document_id in gold}


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
            problem = f"has turn {place} of {HISTORY!r} by the {turn.role}; the {wanted}'s was due"
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
