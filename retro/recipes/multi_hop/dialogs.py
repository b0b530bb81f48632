"""How a question with its look-ups so far is put to a model, and how its reply is read: two forms.

`FunctionCalls` is for a model that was tuned on the conversation of this recipe, `Chat` for any instruct model: it is
instructed in words, with an example, to break a question down. Texts are in `dialogs.yaml`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from pydantic import model_validator

from retro.common.errors import ConfigError
from retro.qa.passages import neighbor_text
from retro.qa.question import PassageLike
from retro.recipes.multi_hop.conversation import (
    END_CALL,
    END_TURN,
    Said,
    Turn,
    on_one_line,
    prompt_segments,
    said_by,
)
from retro.recipes.multi_hop.items import ANSWER, SUMMARY
from retro.recipes.multi_hop.protocol import Ask, Reply
from retro.recipes.prompt_files import PromptFile, filled, require_places
from retro.tokenizers.chat_template import Message

_PLACES = {
    "chat_passages": ("passages",),
    "direct": ("passages", "question"),
    "next_thought": ("passages", "question", "thoughts"),
    "route": ("question",),
}


class DialogTexts(PromptFile):
    """All of a file of texts."""

    package: ClassVar[str] = "retro.recipes.multi_hop"
    file: ClassVar[str] = "dialogs.yaml"

    system: str
    """FunctionCalls: the system turn."""
    nothing_found: str
    """What a search that finds nothing gives."""
    unanswerable: tuple[str, ...]
    """Texts, in small letters, of which one is in an answer that says that there is none."""
    chat_system: str
    """Chat: what is to be done, and in which form."""
    chat_examples: tuple[tuple[str, ...], ...]
    """Chat: conversations that are shown first, texts of user and assistant in turn."""
    chat_passages: str
    """Chat: the turn with what was found, with `{passages}`."""
    chat_close: str
    """Chat: that no search is left, and an answer is wanted."""
    direct: str
    """Answer a question with `{passages}`, or with none, and `{question}`, at once."""
    next_thought: str
    """IRCoT: write the next sentence, with `{passages}`, `{question}` and `{thoughts}`."""
    route: str
    """Adaptive-RAG: which kind of `{question}` it is: A, B or C."""

    @model_validator(mode="after")
    def _have_their_places(self) -> DialogTexts:
        for name, places in _PLACES.items():
            require_places(name, getattr(self, name), places)
        return self


@dataclass
class LookUp:
    """A look-up as a dialog shows it."""

    query: str
    said: str
    """What the model wrote before it."""
    context: str
    """What it found, as text; cut where it is too long."""
    passages: tuple[PassageLike, ...] = ()


@dataclass
class Trace:
    """A question on its way to an answer."""

    question: str
    look_ups: list[LookUp] = field(default_factory=list)
    closing: bool = False
    """Whether no search is left: an answer is wanted now, after"""
    said: str = ""
    """what the model wrote before it wanted another one."""


class Dialog(Protocol):
    """A form of putting questions."""

    texts: DialogTexts

    def ask(self, trace: Trace) -> Ask:
        """What the model is to go on with."""

    def said(self, reply: Reply, trace: Trace) -> Said:
        """What its reply comes down to."""


def context_of(passages: Sequence[PassageLike], texts: DialogTexts) -> str:
    """Passages as one paragraph, as the items of training have it."""
    found = " ".join(on_one_line(neighbor_text(one, "title_and_text")) for one in passages)
    return found or texts.nothing_found


class FunctionCalls:
    """The conversation that models are tuned on."""

    def __init__(self, texts: DialogTexts, max_new_tokens: int) -> None:
        """Set up."""
        self.texts, self._longest = texts, max_new_tokens

    def ask(self, trace: Trace) -> Ask:
        """See `Dialog`. Without a search left, the assistant's turn is begun up to its summary."""
        turns = [Turn(role="system", text=self.texts.system), Turn(role="user", text=trace.question)]
        for one in trace.look_ups:
            turns.append(Turn(role="assistant", text=one.said, query=one.query))
            turns.append(Turn(role="retrieved context", text=one.context))
        segments = prompt_segments(turns, _begun(trace))
        return Ask(segments=segments, max_new_tokens=self._longest, stop_tokens=(END_CALL, END_TURN))

    def said(self, reply: Reply, trace: Trace) -> Said:
        """See `Dialog`."""
        said = said_by(reply.segments)
        begun = _begun(trace)
        return Said(text=f"{begun} {said.text}".strip() if begun else said.text, query=said.query, problem=said.problem)


def _begun(trace: Trace) -> str:
    return f"{trace.said}\n{SUMMARY}".strip() if trace.closing else ""


_ANSWER, _AROUND = re.compile(ANSWER, re.IGNORECASE), "*_ \t\r\n"
_SEARCH = re.compile(r"^[\s*_]*search[\s*_]*:[\s*_]*(.*)$", re.IGNORECASE | re.MULTILINE)


class Chat:
    """The same in words, through the chat template of whatever model there is."""

    def __init__(self, texts: DialogTexts, max_new_tokens: int, examples: int = 1) -> None:
        """Set up.

        Args:
            texts: Its texts.
            max_new_tokens: Of a reply.
            examples: How many conversations are shown first.

        Raises:
            ConfigError: There are not so many.
        """
        if examples > len(texts.chat_examples):
            raise ConfigError(
                "answer.examples", examples, f"needs at most {len(texts.chat_examples)}, as many as there are"
            )
        self.texts, self._longest, self._examples = texts, max_new_tokens, texts.chat_examples[:examples]

    def ask(self, trace: Trace) -> Ask:
        """See `Dialog`."""
        messages: list[Message] = [{"role": "system", "content": self.texts.chat_system}]
        for example in self._examples:
            roles = ("user", "assistant")
            messages += [{"role": roles[place % 2], "content": text} for place, text in enumerate(example)]
        messages.append({"role": "user", "content": trace.question})
        for one in trace.look_ups:
            written = f"{one.said}\nSearch: {one.query}".strip()
            messages.append({"role": "assistant", "content": written})
            messages.append({"role": "user", "content": filled(self.texts.chat_passages, {"passages": one.context})})
        return Ask(messages=tuple(self._closed(messages, trace)), max_new_tokens=self._longest)

    def said(self, reply: Reply, trace: Trace) -> Said:
        """See `Dialog`. What comes after a line with a search is not read: the model made it up."""
        text = reply.text
        found = _SEARCH.search(text)
        if found is not None:
            query = found[1].strip().strip("\"'`")
            problem = "" if query else "a search for nothing"
            return Said(text=text[: found.start()].strip(), query=query, problem=problem)
        if not has_answer(text) and not trace.closing:
            return Said(text=text, problem="neither a search nor an answer")
        return Said(text=text)

    def _closed(self, messages: list[Message], trace: Trace) -> list[Message]:
        if not trace.closing:
            return messages
        if trace.said:
            messages.append({"role": "assistant", "content": trace.said})
            return [*messages, {"role": "user", "content": self.texts.chat_close}]
        last = messages.pop()
        return [*messages, {"role": "user", "content": f"{last['content']}\n\n{self.texts.chat_close}"}]


def answer_of(text: str) -> str:
    """The answer itself: what stands behind the last `Answer:`, on its line; all of a text that has none."""
    if not has_answer(text):
        return text.strip()
    after = _ANSWER.split(text)[-1]
    return after.strip(_AROUND).split("\n", 1)[0].strip(_AROUND)


def has_answer(text: str) -> bool:
    """Whether a text has an `Answer:`, in letters of any case."""
    return _ANSWER.search(text) is not None
