"""Choices of a completion or a chat: whole, or event by event as they are generated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from retro.generate.request import ChosenToken, Completion, Ended, Event, Retrieved
from retro.qa.answer_files import passage_record
from retro.qa.question import PassageLike
from retro.serve.logprobs import chat_logprobs, completion_logprobs, incomplete_bytes
from retro.serve.model_info import ModelInfo
from retro.serve.prepare import PreparedRequest
from retro.serve.responses import (
    AssistantMessage,
    ChatChoice,
    ChatChunkChoice,
    ChatDelta,
    CompletionChoice,
    CompletionChunkChoice,
    FinishReason,
    RetrievalResult,
    RetrievedChunk,
    RetrievedPassage,
    Usage,
)
from retro.tokenizers.tokenizer import Tokenizer

Route = Literal["completion", "chat"]
_FINISH: dict[Ended, FinishReason] = {
    "end": "stop",
    "stop": "stop",
    "hook": "stop",
    "length": "length",
    "cancelled": "stop",
}


def usage(prepared: PreparedRequest, new_tokens: int) -> Usage:
    """Counts of tokens; `new_tokens` of all choices."""
    total = prepared.prompt_tokens + new_tokens
    return Usage(prompt_tokens=prepared.prompt_tokens, completion_tokens=new_tokens, total_tokens=total)


def whole_choice(
    route: Route, model: ModelInfo, prepared: PreparedRequest, index: int, completion: Completion
) -> CompletionChoice | ChatChoice:
    """A finished choice."""
    # A chat's prompt ends in "Assistant:", and its answer begins with the space after that.
    text = completion.text.lstrip() if route == "chat" else prepared.echoes[index] + completion.text
    prompt_tokens, dropped = len(prepared.requests[index].prompt), len(completion.text) - len(text)
    chunks = [
        retrieved_chunk(model.tokenizer, found, completion.tokens, prompt_tokens, dropped)
        for found in completion.retrieved
    ]
    common: dict[str, Any] = {
        "index": index,
        "logprobs": _logprobs(route, model, completion.tokens, ()) if prepared.logprobs else None,
        "finish_reason": _FINISH[completion.ended],
        "retrieval": RetrievalResult(source=prepared.source, chunks=chunks, **_details(completion)),
    }
    if route == "chat":
        return ChatChoice(message=AssistantMessage(role="assistant", content=text), **common)
    return CompletionChoice(text=text, **common)


def _details(completion: Completion) -> dict[str, Any]:
    return {"details": dict(completion.details)} if completion.details else {}


def _logprobs(route: Route, model: ModelInfo, tokens: Sequence[ChosenToken], before: Sequence[int]) -> Any:
    return (chat_logprobs if route == "chat" else completion_logprobs)(model, tokens, before)


@dataclass
class ChoiceStream:
    """One choice as it is generated."""

    route: Route
    model: ModelInfo
    prepared: PreparedRequest
    index: int
    tokens: list[ChosenToken] = field(default_factory=list)
    dropped: int = 0
    """Characters at the answer's start that were not sent; negative: those of an echoed prompt before it."""
    any_text: bool = False
    tokens_sent: int = 0
    """Tokens whose log-probabilities were sent."""

    def first(self) -> list[CompletionChunkChoice | ChatChunkChoice]:
        """What is sent before the first token: the role, or the prompt that is to be echoed."""
        echo = self.prepared.echoes[self.index]
        self.dropped = -len(echo)
        return [self._choice(echo, first=True)] if echo or self.route == "chat" else []

    def chunks(self, event: Event) -> list[CompletionChunkChoice | ChatChunkChoice]:
        """What an event adds: text, tokens and passages, and at the end why it ended."""
        self.tokens += event.tokens
        text, chunks = self._text_to_send(event.text), []
        prompt_tokens = len(self.prepared.requests[self.index].prompt)
        retrieved = [
            retrieved_chunk(self.model.tokenizer, one, self.tokens, prompt_tokens, self.dropped)
            for one in event.retrieved
        ]
        logprobs = self._new_logprobs(ended=event.completion is not None)
        if text or retrieved or logprobs:
            result = RetrievalResult(source=self.prepared.source, chunks=retrieved)
            found: dict[str, Any] = {"retrieval": result} if retrieved else {}
            chunks.append(self._choice(text, logprobs=logprobs, **found))
        if event.completion is not None:
            told = _details(event.completion)
            result = RetrievalResult(source=self.prepared.source, chunks=[], **told)
            last: dict[str, Any] = {"retrieval": result} if told else {}
            chunks.append(self._choice("", finish_reason=_FINISH[event.completion.ended], **last))
        return chunks

    def _new_logprobs(self, *, ended: bool) -> Any:
        """Of the tokens that have none yet; those of a character that is not whole wait for its end."""
        ids = [token.id for token in self.tokens]
        tokens = self.tokens[self.tokens_sent :]
        if not (self.prepared.logprobs and tokens) or (incomplete_bytes(self.model, ids) and not ended):
            return None
        found = _logprobs(self.route, self.model, tokens, ids[: self.tokens_sent])
        self.tokens_sent = len(ids)
        return found

    def _text_to_send(self, text: str) -> str:
        if self.route != "chat" or self.any_text:
            return text
        kept = text.lstrip()
        self.dropped += len(text) - len(kept)
        self.any_text = bool(kept)
        return kept

    def _choice(self, text: str, *, first: bool = False, **parts: Any) -> CompletionChunkChoice | ChatChunkChoice:
        common = {"index": self.index, "logprobs": None, "finish_reason": None} | parts
        if self.route == "completion":
            return CompletionChunkChoice(text=text, **common)
        if first:
            return ChatChunkChoice(delta=ChatDelta(role="assistant", content=""), **common)
        return ChatChunkChoice(delta=ChatDelta(content=text) if text else ChatDelta(), **common)


def retrieved_chunk(
    tokenizer: Tokenizer, found: Retrieved, tokens: Sequence[ChosenToken], prompt_tokens: int, dropped: int = 0
) -> RetrievedChunk:
    """One chunk and the passages that the encoder read for it.

    Args:
        tokenizer: Decodes the answer's part of the chunk.
        found: The chunk's end and its passages.
        tokens: Of the answer, at least those up to the chunk's end.
        prompt_tokens: Of the prompt.
        dropped: Characters to subtract from the offset: spaces at the answer's start that were not sent.
    """
    answered = max(0, found.position + 1 - prompt_tokens)
    # A chunk may end within a character; that character comes after it.
    text = tokenizer.decode([token.id for token in tokens[:answered]]).rstrip("\ufffd") if answered else ""
    return RetrievedChunk(
        position=found.position,
        answer_token=answered,
        text_offset=max(0, len(text) - dropped),
        passages=[_passage(one) for one in found.passages],
    )


def _passage(found: PassageLike) -> RetrievedPassage:
    kept = passage_record(found)
    searched = kept.row >= 0
    return RetrievedPassage(
        text=kept.text,
        title=kept.title,
        document_id=kept.document_id,
        row=kept.row if searched else None,
        score=kept.score if searched else None,
        distance=round(math.sqrt(max(0.0, 2 - 2 * kept.score)), 6) if searched else None,
    )
