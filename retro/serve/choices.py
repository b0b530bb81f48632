"""The two forms of an answer, completion and chat: whole, and piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from retro.generate.request import ChosenToken, Completion, Event
from retro.serve.bodies import chunk, finish_reason, retrieval
from retro.serve.logprobs import chat_logprobs, completion_logprobs, open_end
from retro.serve.model_info import ModelInfo
from retro.serve.prepare import PreparedRequest

Choice = dict[str, Any]
Logprobs = Callable[[ModelInfo, Sequence[ChosenToken], Sequence[int]], dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Form:
    """What differs between the two routes."""

    id_prefix: str
    whole: str
    """`object` of a whole answer."""
    piece: str
    """`object` of a streamed piece."""
    logprobs: Logprobs
    is_chat: bool

    def text(self, text: str) -> Choice:
        """The part of a whole choice that holds its text."""
        return {"message": {"role": "assistant", "content": text}} if self.is_chat else {"text": text}

    def delta(self, text: str, *, first: bool = False) -> Choice:
        """The part of a piece that holds its text; the first of a chat says who speaks."""
        if not self.is_chat:
            return {"text": text}
        return {"delta": {"role": "assistant", "content": ""} if first else {"content": text} if text else {}}


COMPLETION = Form(
    id_prefix="cmpl-",
    whole="text_completion",
    piece="text_completion",
    logprobs=completion_logprobs,
    is_chat=False,
)
CHAT = Form(
    id_prefix="chatcmpl-",
    whole="chat.completion",
    piece="chat.completion.chunk",
    logprobs=chat_logprobs,
    is_chat=True,
)


def whole_choice(form: Form, served: ModelInfo, ask: PreparedRequest, index: int, completion: Completion) -> Choice:
    """A finished choice."""
    # A chat's prompt ends in "Assistant:", and its answer begins with the space after that.
    text = completion.text.lstrip() if form.is_chat else ask.prompts[index] + completion.text
    before = len(completion.text) - len(text) if form.is_chat else -len(ask.prompts[index])
    chunks = [
        chunk(served.tokenizer, found, completion.tokens, len(ask.requests[index].prompt), before)
        for found in completion.retrieved
    ]
    return {
        "index": index,
        **form.text(text),
        "logprobs": form.logprobs(served, completion.tokens, ()) if ask.logprobs else None,
        "finish_reason": finish_reason(completion.ended),
        "retrieval": retrieval(ask.source, chunks),
    }


@dataclass
class ChoiceStream:
    """One choice as it comes."""

    form: Form
    served: ModelInfo
    ask: PreparedRequest
    index: int
    tokens: list[ChosenToken] = field(default_factory=list)
    dropped: int = 0
    """Letters at the answer's start that were not given out; negative: letters of an echoed prompt before it."""
    any_text: bool = False
    told: int = 0
    """Tokens whose log-probabilities were given out."""

    def first(self) -> list[Choice]:
        """What is said before the first token: who speaks, or the prompt that is to be echoed."""
        echoed = self.ask.prompts[self.index]
        self.dropped = -len(echoed)
        if self.form.is_chat:
            return [self._choice(self.form.delta("", first=True))]
        return [self._choice(self.form.delta(echoed))] if echoed else []

    def pieces(self, event: Event) -> list[Choice]:
        """What an event gives: text, tokens and passages, and in the end why it ended."""
        self.tokens += event.tokens
        text, pieces = self._given_out(event.text), []
        prompt_tokens = len(self.ask.requests[self.index].prompt)
        chunks = [
            chunk(self.served.tokenizer, one, self.tokens, prompt_tokens, self.dropped) for one in event.retrieved
        ]
        logprobs = self._logprobs(ended=event.completion is not None)
        if text or chunks or logprobs:
            found = {"retrieval": retrieval(self.ask.source, chunks)} if chunks else {}
            pieces.append(self._choice(self.form.delta(text), logprobs=logprobs) | found)
        if event.completion is not None:
            pieces.append(self._choice(self.form.delta(""), finish=finish_reason(event.completion.ended)))
        return pieces

    def _logprobs(self, *, ended: bool) -> dict[str, Any] | None:
        """Of the tokens that have none yet; those of a character that is not whole wait for its end."""
        ids = [token.id for token in self.tokens]
        tokens = self.tokens[self.told :]
        if not (self.ask.logprobs and tokens) or (open_end(self.served, ids) and not ended):
            return None
        found = self.form.logprobs(self.served, tokens, ids[: self.told])
        self.told = len(ids)
        return found

    def _given_out(self, text: str) -> str:
        if not self.form.is_chat or self.any_text:
            return text
        kept = text.lstrip()
        self.dropped += len(text) - len(kept)
        self.any_text = bool(kept)
        return kept

    def _choice(self, part: Choice, *, logprobs: Any = None, finish: str | None = None) -> Choice:
        return {"index": self.index, **part, "logprobs": logprobs, "finish_reason": finish}
