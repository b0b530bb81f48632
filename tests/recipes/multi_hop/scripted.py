"""A model and a retriever that say what is written down for them, and what they were asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from retro.qa.question import Context, Question
from retro.qa.segments import split_at_tokens
from retro.recipes.multi_hop.conversation import TOKENS, call_text
from retro.recipes.multi_hop.protocol import Ask, Found, Outcome, Reply, Search, Steps, run

Says = str | Reply


def asked_text(ask: Ask) -> str:
    """What a model is asked, as one text."""
    if ask.messages:
        return "\n".join(f"{one['role']}: {one['content']}" for one in ask.messages)
    return "".join(one.token or one.text for one in ask.segments)


def reply_of(says: Says) -> Reply:
    return says if isinstance(says, Reply) else Reply(segments=split_at_tokens(says, TOKENS))


class Scripted:
    """Replies in turn, or by a function of what is asked."""

    identity: Mapping[str, Any] = {"kind": "scripted"}

    def __init__(self, *says: Says, rule: Callable[[str], Says] | None = None) -> None:
        self._says, self._rule = list(says), rule
        self.asked: list[str] = []
        self.batches: list[int] = []

    def generate(self, asks: Sequence[Ask]) -> list[Reply]:
        self.batches.append(len(asks))
        found = []
        for ask in asks:
            self.asked.append(asked_text(ask))
            found.append(reply_of(self._rule(self.asked[-1]) if self._rule else self._says.pop(0)))
        return found


class Shelf:
    """Passages by query."""

    identity: Mapping[str, Any] = {"kind": "shelf"}

    def __init__(self, known: Mapping[str, str | Found]) -> None:
        self._known = known
        self.searched: list[str] = []

    def find(self, searches: Sequence[Search]) -> list[Found]:
        self.searched += [one.query for one in searches]
        return [self._found(one.query) for one in searches]

    def _found(self, query: str) -> Found:
        known = self._known.get(query, Found())
        return known if isinstance(known, Found) else Found(passages=(Context("", known, document_id=f"d {query}"),))


def question(text: str = "Which is older?", **more: Any) -> Question:
    return Question(id="1", question=text, answers=("the bridge",), **more)


def call(query: str, said: str = "") -> str:
    """A turn with a call, as a model writes it."""
    text = f" {said}\n" if said else ""
    return f"{text}<|bof|>{call_text(query)}<|eof|>"


def outcome_of(steps: Steps, model: Any, shelf: Any) -> Outcome:
    [found] = run([steps], model, shelf)
    return found
