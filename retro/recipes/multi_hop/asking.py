"""What ways of answering do alike: note, search, and put a prompt to a chat model that may be too long for it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from retro.qa.question import Question
from retro.recipes.multi_hop.protocol import Ask, Event, Found, Reply, Search, Step

NO_ANSWER = "no_answer: the model said nothing that is one"


def note(notes: list[str], word: str) -> Generator[Step, Any, None]:
    """Note something, once."""
    if word not in notes:
        notes.append(word)
        yield Event(kind="note", text=word)


def search(query: str, question: Question, notes: list[str]) -> Generator[Step, Any, Found]:
    """Search, show what was found, and note where that is nothing."""
    yield Event(kind="search", text=query)
    found: Found = yield Search(query=query, question=question)
    if found.problem:
        yield from note(notes, f"search_failed: {found.problem}")
    elif not found.passages:
        yield from note(notes, "nothing_found")
    yield Event(kind="found", passages=found.passages)
    return found


def ask(
    prompt: Callable[[str], str], context: str, max_new_tokens: int, notes: list[str], *, whole: bool = True
) -> Generator[Step, Any, Reply]:
    """Ask, with the context halved until all of it fits.

    Args:
        prompt: The message, given the context.
        context: Passages as text.
        max_new_tokens: Of the reply.
        notes: Those of the answer.
        whole: Whether all of the reply is read, so that it is noted where it was cut.
    """
    while True:
        message = {"role": "user", "content": prompt(context).strip()}
        reply: Reply = yield Ask(messages=(message,), max_new_tokens=max_new_tokens)
        if not reply.excess or not context:
            break
        yield from note(notes, "context_cut")
        context = context[: len(context) // 2]
    if reply.cut and whole:
        yield from note(notes, "reply_cut")
    return reply


def no_reply(reply: Reply) -> str:
    """Why a reply says nothing; empty: it says something."""
    why = reply.problem or ("the prompt is too long" if reply.excess else "" if reply.text else "it wrote nothing")
    return f"model: {why}" if why else ""
