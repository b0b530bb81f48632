"""One protocol for models, retrievers and ways to answer: a program yields what it wants, and is sent what it got.

    def one_search(question):
        found = yield Search(query=question.question, question=question)
        reply = yield Ask(messages=...)
        return Outcome(answer=reply.text, text=reply.text)

`run` answers many questions side by side: all that is asked at one time is one batch of the model, and one of the
retriever. `stream` answers one and tells each step as it is made.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from retro.common.errors import ConfigError
from retro.qa.question import PassageLike, Question, Segment
from retro.tokenizers.chat_template import Message


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A text that a model is to go on with: a conversation in segments, or the messages of a chat."""

    segments: tuple[Segment, ...] = ()
    messages: tuple[Message, ...] = ()
    """`role` and `content` of each, the last one the user's."""
    max_new_tokens: int = 256
    stop_tokens: tuple[str, ...] = ()
    """With segments: special tokens after which the reply ends. They are part of it."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a model wrote."""

    segments: tuple[Segment, ...] = ()
    """Texts, and special tokens by name."""
    cut: bool = False
    """Whether it ended because it was as long as it may be."""
    excess: int = 0
    """Tokens by which the prompt is too long for the model: nothing was asked, and a shorter one may be."""
    problem: str = ""
    """Why there is no reply; nothing was lost but this one."""

    @property
    def text(self) -> str:
        """Its texts, without special tokens."""
        return "".join(one.text for one in self.segments).strip()


@dataclass(frozen=True, kw_only=True)
class Search:
    """Something to be looked up."""

    query: str
    question: Question
    """For whose sake: it may bring the passages that are searched."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search found, best first."""

    passages: tuple[PassageLike, ...] = ()
    problem: str = ""
    """Why nothing could be searched."""
    refused: bool = False
    """Whether that is because of the query: others may be searched."""


@dataclass(frozen=True, kw_only=True)
class Hop:
    """A look-up and what became of it."""

    query: str
    passages: tuple[PassageLike, ...] = ()
    answer: str = ""
    """What the model said after reading; empty where it said nothing before it went on."""

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        passages = [{"id": one.document_id, "title": one.title, "text": one.text} for one in self.passages]
        return {"query": self.query, "passages": passages, "answer": self.answer}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a question was answered."""

    answer: str = ""
    """The answer itself, and"""
    text: str = ""
    """all that the last turn says: reasoning, summary, answer."""
    hops: tuple[Hop, ...] = ()
    notes: tuple[str, ...] = ()
    """What did not go as it should; a word, or a word, a colon and the reason."""
    failed: str = ""
    """Why there is no answer; empty: there is one."""
    route: str = ""
    """Which way was taken, where there are several."""

    def details(self) -> dict[str, Any]:
        """As JSON values, without what is empty."""
        found: dict[str, Any] = {"text": self.text, "hops": [one.record() for one in self.hops]}
        rest = {"notes": list(self.notes), "failed": self.failed, "route": self.route}
        return {"multi_hop": found | {name: value for name, value in rest.items() if value}}


@dataclass(frozen=True, kw_only=True)
class Event:
    """A step, reported while an answer is made: `search`, `found`, `said`, `note`, and `answer`, the last one."""

    kind: str
    text: str = ""
    passages: tuple[PassageLike, ...] = ()
    outcome: Outcome | None = None

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        found: dict[str, Any] = {"kind": self.kind, "text": self.text}
        if self.passages:
            found["passages"] = [{"title": one.title, "text": one.text} for one in self.passages]
        return found if self.outcome is None else found | self.outcome.details()


Step: TypeAlias = Ask | Search | Event
Steps: TypeAlias = Generator[Step, Any, Outcome]
"""Yields an `Ask` and is sent a `Reply`; a `Search` and is sent a `Found`; an `Event` and is sent nothing."""
Answer: TypeAlias = Callable[[Question], Steps]
"""A way to answer a question."""


class LanguageModel(Protocol):
    """What continues texts."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that decides what it writes, as JSON values."""

    def generate(self, asks: Sequence[Ask]) -> list[Reply]:
        """A reply to each, in their order. One that cannot be given is a reply with a problem.

        Raises:
            RetroError: None can be given: the model is not there, or refuses everything.
        """


class Retriever(Protocol):
    """What finds passages."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that decides what is found, as JSON values."""

    def find(self, searches: Sequence[Search]) -> list[Found]:
        """What each finds, in their order. One that cannot be searched is found with a problem.

        Raises:
            RetroError: Nothing can be searched.
        """


@dataclass
class _Running:
    """A program, and what it waits for."""

    steps: Steps
    events: list[Event] = field(default_factory=list)
    wants: Ask | Search | None = None
    outcome: Outcome | None = None

    def advance(self, given: Reply | Found | None) -> None:
        """Go on until it asks, searches or ends."""
        try:
            step = next(self.steps) if given is None else self.steps.send(given)
            while isinstance(step, Event):
                self.events.append(step)
                step = self.steps.send(None)
            self.wants = step
        except StopIteration as ended:
            self.wants, self.outcome = None, ended.value


def run(programs: Sequence[Steps], model: LanguageModel, retriever: Retriever) -> list[Outcome]:
    """Answer side by side.

    Returns:
        An outcome for each, in their order.

    Raises:
        RetroError: Model or retriever cannot do anything at all.
    """
    running = [_Running(one) for one in programs]
    try:
        for one in running:
            one.advance(None)
        while any(one.wants is not None for one in running):
            _serve(running, model, retriever)
    finally:
        for one in running:
            one.steps.close()
    return [one.outcome for one in running if one.outcome is not None]


def _serve(running: Sequence[_Running], model: LanguageModel, retriever: Retriever) -> None:
    """All that is asked for at this moment, in one batch of the model and one of the retriever."""
    asking = [(one, one.wants) for one in running if isinstance(one.wants, Ask)]
    searching = [(one, one.wants) for one in running if isinstance(one.wants, Search)]
    replies: Sequence[Reply] = model.generate([ask for _, ask in asking]) if asking else ()
    found: Sequence[Found] = retriever.find([search for _, search in searching]) if searching else ()
    _require_search(found, retriever)
    for (one, _), reply in zip(asking, replies, strict=True):
        one.advance(reply)
    for (one, _), passages in zip(searching, found, strict=True):
        one.advance(passages)


def _require_search(found: Sequence[Found], retriever: Retriever) -> None:
    """Check that something could be searched. A single query may be refused: it is noted, and nothing else is lost.

    Raises:
        ConfigError: Nothing could.
    """
    if found and all(one.problem for one in found) and (len(found) > 1 or not found[0].refused):
        need = f"needs to be there and to search ({found[0].problem}); answers so far are kept"
        raise ConfigError("answer.retriever", dict(retriever.identity), need)


def stream(steps: Steps, model: LanguageModel, retriever: Retriever) -> Iterator[Event]:
    """Answer one question, telling each step as it is made; the last event has the outcome.

    Raises:
        RetroError: As `run`.
    """
    running = _Running(steps)
    try:
        running.advance(None)
        while running.wants is not None:
            yield from _told(running)
            _serve([running], model, retriever)
        yield from _told(running)
    finally:
        steps.close()
    if running.outcome is not None:
        yield Event(kind="answer", text=running.outcome.answer, outcome=running.outcome)


def _told(running: _Running) -> Iterator[Event]:
    events, running.events = running.events, []
    yield from events
