"""Decompose, look up, answer each sub-question, summarise: the program of the recipe, and one search to compare with.

Whatever goes wrong ends in something said: a note in the outcome, and where there is no answer, why. Notes are
`hop_limit`, `repeated_query`, `malformed_call: …`, `call_in_summary`, `nothing_found`, `search_failed: …`,
`unanswerable_sub_question`, `context_cut`, `reply_cut` and `no_answer_line`.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from retro.qa.question import Question
from retro.recipes.multi_hop import asking
from retro.recipes.multi_hop.asking import NO_ANSWER
from retro.recipes.multi_hop.conversation import Said, on_one_line
from retro.recipes.multi_hop.dialogs import Dialog, LookUp, Trace, answer_of, context_of, has_answer
from retro.recipes.multi_hop.items import SUMMARY
from retro.recipes.multi_hop.protocol import Event, Hop, Outcome, Reply, Step, Steps

_SHORTEST_CONTEXT = 40
"""Characters below which a context that has to be cut is left out."""


class _Way:
    """A question on its way: what was looked up, and what did not go as it should."""

    def __init__(self, question: Question, dialog: Dialog) -> None:
        self.question, self.dialog = question, dialog
        self.trace = Trace(question=question.question)
        self.answers: list[str] = []
        """What was said after each look-up."""
        self.notes: list[str] = []

    def note(self, word: str) -> Generator[Step, Any, None]:
        """Note something, once."""
        yield from asking.note(self.notes, word)

    def look_up(self, query: str, said: str) -> Generator[Step, Any, None]:
        """Search, and show what was found."""
        found = yield from asking.search(query, self.question, self.notes)
        context = context_of(found.passages, self.dialog.texts)
        self.trace.look_ups.append(LookUp(query=query, said=said, context=context, passages=found.passages))

    def say(self) -> Generator[Step, Any, Said | str]:
        """The model's next turn; a text is why there is none."""
        reply = yield from self._reply()
        if reply.excess:
            return f"no_room: question and conversation are {reply.excess} tokens too long for the model"
        if reply.problem:
            return f"model: {reply.problem}"
        said = self.dialog.said(reply, self.trace)
        if reply.cut:
            yield from self.note("reply_cut")
        if said.text:
            yield Event(kind="said", text=said.text)
        yield from self._answered(said)
        return said

    def _reply(self) -> Generator[Step, Any, Reply]:
        while True:
            reply: Reply = yield self.dialog.ask(self.trace)
            longest = max(self.trace.look_ups, key=lambda one: len(one.context), default=None)
            if not reply.excess or longest is None or not longest.context:
                return reply
            yield from self.note("context_cut")
            kept = longest.context[: len(longest.context) // 2]
            longest.context = kept if len(kept) >= _SHORTEST_CONTEXT else ""

    def _answered(self, said: Said) -> Generator[Step, Any, None]:
        """Keep what was said of the last look-up."""
        if len(self.answers) < len(self.trace.look_ups):
            self.answers.append(said.text.partition(SUMMARY)[0].strip())
            if any(text in self.answers[-1].lower() for text in self.dialog.texts.unanswerable):
                yield from self.note("unanswerable_sub_question")

    def searched(self, query: str) -> bool:
        """Whether that was looked up before."""
        return any(_plain(one.query) == _plain(query) for one in self.trace.look_ups)

    def outcome(self, text: str, failed: str = "") -> Outcome:
        """The end."""
        answers = [*self.answers, *[""] * (len(self.trace.look_ups) - len(self.answers))]
        hops = tuple(
            Hop(query=one.query, passages=one.passages, answer=answer)
            for one, answer in zip(self.trace.look_ups, answers, strict=True)
        )
        answer = "" if failed else answer_of(text)
        why = failed or ("" if answer else NO_ANSWER)
        return Outcome(answer=answer, text=text, hops=hops, notes=tuple(self.notes), failed=why)


def _plain(query: str) -> str:
    return on_one_line(query).lower().rstrip("?. ")


def decompose(question: Question, dialog: Dialog, hops: int) -> Steps:
    """Answer a question by its sub-questions.

    Args:
        question: The question.
        dialog: How it is put to the model.
        hops: Most look-ups. After them, or when a call repeats one or cannot be followed, an answer is asked for.
    """
    way = _Way(question, dialog)
    while True:
        said = yield from way.say()
        if isinstance(said, str):
            return way.outcome(way.trace.said, failed=said)
        if not said.query and not said.problem:
            return (yield from _ended(way, said.text))
        if way.trace.closing:
            yield from way.note("call_in_summary")
            return (yield from _ended(way, said.text))
        stopped = yield from _stopped(way, said, hops)
        if not stopped:
            # A call that cannot be followed, before anything was looked up: the question itself is.
            yield from way.look_up(said.query or question.question, said.text)
            continue
        way.trace.closing, way.trace.said = True, said.text


def _stopped(way: _Way, said: Said, hops: int) -> Generator[Step, Any, bool]:
    """Whether a call is not followed, which is noted."""
    if said.problem:
        yield from way.note(f"malformed_call: {said.problem}")
        return bool(way.trace.look_ups)
    if way.searched(said.query):
        yield from way.note("repeated_query")
        return True
    if len(way.trace.look_ups) >= hops:
        yield from way.note("hop_limit")
        return True
    return False


def _ended(way: _Way, text: str) -> Generator[Step, Any, Outcome]:
    if len(way.trace.look_ups) > 1 and not has_answer(text):
        yield from way.note("no_answer_line")
    return way.outcome(text)


def one_search(question: Question, dialog: Dialog) -> Steps:
    """Answer a question from what one search with the whole of it finds: what decomposition is compared with."""
    way = _Way(question, dialog)
    yield from way.look_up(question.question, "")
    said = yield from way.say()
    if isinstance(said, str):
        return way.outcome("", failed=said)
    if said.query or said.problem:
        yield from way.note("hop_limit")
        way.trace.closing, way.trace.said = True, said.text
        said = yield from way.say()
        if isinstance(said, str):
            return way.outcome(way.trace.said, failed=said)
    return (yield from _ended(way, said.text))
