"""Conflict items: a question with the passages of each condition, as the steps hand them on in files of JSON lines.

    {"id", "question", "answers", "original", "counter", "options", "labels",
     "conditions": {name: [{"title", "text"}]}, "replaced": {name: [{"passage", "from", "to", "times"}]}}

Several conditions may be missing from an item: what could not be made is counted where it was tried.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NotRequired, get_args

from typing_extensions import TypedDict

from retro.common.errors import DataError
from retro.common.files import atomic_path
from retro.common.json_files import json_items, read_text, wrong_type
from retro.qa.question import Context

Condition = Literal[
    "original", "substituted", "counter_memory", "irrelevant", "unanswerable", "original_first", "counter_first",
    "contradicting",
]  # fmt: skip
CONDITIONS: tuple[Condition, ...] = get_args(Condition)
CLOSED_BOOK = "closed_book"
"""What is answered without a passage; no condition of an item, for it has none."""
Supports = Literal["original", "counter", "both", "nothing"]
SUPPORTS: Mapping[str, Supports] = {
    CLOSED_BOOK: "nothing",
    "original": "original",
    "substituted": "counter",
    "counter_memory": "counter",
    "irrelevant": "nothing",
    "unanswerable": "nothing",
    "original_first": "both",
    "counter_first": "both",
    "contradicting": "both",
}
"""Which answer the passages of a condition support."""


@dataclass(frozen=True, kw_only=True)
class ConflictItem:
    """A question, two answers that are at odds, and the passages of each condition."""

    id: str
    question: str
    answers: tuple[str, ...]
    """The right ones; empty where they are not known."""
    original: tuple[str, ...]
    """What was believed before the passages were changed: for a QA set the right answers, for ConflictQA that of the
    model's memory."""
    counter: tuple[str, ...] = ()
    """What the changed passages say; empty where none could be found."""
    options: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    conditions: Mapping[str, tuple[Context, ...]] = field(default_factory=dict)
    replaced: Mapping[str, tuple[Mapping[str, Any], ...]] = field(default_factory=dict)
    """By condition: `passage` (its place, from 0), `from`, `to`, `times`; what was removed has an empty `to`."""

    def with_condition(
        self, name: str, passages: Sequence[Context], replaced: Sequence[Mapping[str, Any]] = ()
    ) -> ConflictItem:
        """The item with one condition more."""
        changes = {**self.replaced, name: tuple(replaced)} if replaced else self.replaced
        return dataclasses.replace(self, conditions={**self.conditions, name: tuple(passages)}, replaced=changes)

    def record(self) -> dict[str, Any]:
        """As a line of the file."""
        return {
            "id": self.id,
            "question": self.question,
            "answers": list(self.answers),
            "original": list(self.original),
            "counter": list(self.counter),
            "options": list(self.options),
            "labels": dict(self.labels),
            "conditions": {
                name: [_passage(one) for one in self.conditions[name]] for name in in_order(self.conditions)
            },
            "replaced": {name: [dict(one) for one in self.replaced[name]] for name in in_order(self.replaced)},
        }


def in_order(names: Iterable[str]) -> list[str]:
    """Names of conditions in the order in which they are shown, closed-book first."""
    known = (CLOSED_BOOK, *CONDITIONS)
    return sorted(names, key=known.index)


def _passage(one: Context) -> dict[str, str]:
    return {"title": one.title, "text": one.text}


class _PassageData(TypedDict):
    title: NotRequired[str]
    text: str


class _ItemData(TypedDict):
    id: str
    question: str
    answers: list[str]
    original: list[str]
    counter: list[str]
    options: NotRequired[list[str]]
    labels: NotRequired[dict[str, str]]
    conditions: dict[Condition, list[_PassageData]]
    replaced: NotRequired[dict[Condition, list[dict[str, Any]]]]


def write_conflicts(path: Path, items: Iterable[ConflictItem]) -> None:
    """Write one item a line, in one piece."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as target:
        for one in items:
            target.write(json.dumps(one.record(), ensure_ascii=False) + "\n")


def read_conflicts(path: Path) -> list[ConflictItem]:
    """Read conflict items.

    Raises:
        DataError: The file is missing or broken, holds no item, or one of them is none, has a condition without
            passages or the id of another.
    """
    remedy = "A file of conflict items has the fields of retro/recipes/knowledge_conflict/items.py, one item a line"
    found: dict[str, ConflictItem] = {}
    for one in json_items(path, read_text(path, "file of conflict items")):
        problem = wrong_type(one.value, _ItemData)
        if problem:
            raise DataError(path, f"{one.place} {problem}", remedy)
        item = _item(one.value)
        empty = [name for name, passages in item.conditions.items() if not passages]
        if empty:
            raise DataError(path, f"{one.place} has no passage under conditions.{empty[0]}", remedy)
        if item.id in found:
            raise DataError(path, f"{one.place} has the id {item.id!r} of another item", remedy)
        found[item.id] = item
    if not found:
        raise DataError(path, "holds no conflict item", remedy)
    return list(found.values())


def _item(data: Mapping[str, Any]) -> ConflictItem:
    texts = {name: tuple(data.get(name, ())) for name in ("answers", "original", "counter", "options")}
    conditions = {
        name: tuple(Context(one.get("title", ""), one["text"]) for one in passages)
        for name, passages in data["conditions"].items()
    }
    return ConflictItem(
        id=data["id"],
        question=data["question"],
        labels=tuple(data.get("labels", {}).items()),
        conditions=conditions,
        replaced={name: tuple(changes) for name, changes in data.get("replaced", {}).items()},
        **texts,
    )
