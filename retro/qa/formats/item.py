"""What converters take and give: one item of a public file in, questions out, or the reason why it cannot be one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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
Found = tuple[str, Item | BadItemError]
"""The place of an item in its file, and the item."""


@dataclass(frozen=True)
class Format:
    """A public format."""

    summary: str
    """One line of help."""
    convert: Convert
    walk: Callable[[Any], Iterable[Found]] | None = None
    """From the one JSON object that a file of it is to its items; None: the file is a list, or one object per line."""
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
        BadItemError: It is no text.
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
