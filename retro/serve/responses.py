"""Response bodies: OpenAI's objects, with `retrieval` in every choice, as published at /openapi.json.

A field that was not set is left out of the JSON, so that each event of a stream carries only what is new.
"""

from __future__ import annotations

from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from retro.serve.protocol import Source
from retro.serve.scheduler import State

FinishReason = Literal["stop", "length"]


class ResponseModel(BaseModel):
    """A JSON object of a response."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    def json_bytes(self) -> bytes:
        """The JSON text, in UTF-8, without fields that were not set."""
        return self.model_dump_json(exclude_unset=True).encode()


class ErrorDetail(ResponseModel):
    """What is wrong."""

    message: str
    """One line: what was found and what was needed."""
    type: str
    """OpenAI's kind of error."""
    param: str | None
    """The parameter that is wrong, as `messages[1].content`."""
    code: str | None
    """A word for programs."""


class ErrorResponse(ResponseModel):
    """An error in OpenAI's form."""

    error: ErrorDetail


class Usage(ResponseModel):
    """Counts of tokens; end tokens are not counted."""

    prompt_tokens: int
    """Of all prompts; choices of one prompt share it."""
    completion_tokens: int
    """Of all answers."""
    total_tokens: int


class RetrievedPassage(ResponseModel):
    """A passage that a chunk was conditioned on."""

    text: str
    title: str
    document_id: str
    row: int | None
    """Row of the database; null for a passage of the request."""
    score: float | None
    """Inner product with the query; null for a passage of the request."""
    distance: float | None
    """√(2 − 2 · score), the distance of vectors of length 1; null for a passage of the request."""


class RetrievedChunk(ResponseModel):
    """A chunk and the passages that the text after it was conditioned on."""

    position: int
    """The token that ends the chunk, counted from the start of the prompt."""
    answer_token: int
    """Tokens of the answer up to the chunk's end; 0 for chunks of the prompt."""
    text_offset: int
    """Characters of the answer up to there: what follows was written while these passages were read."""
    passages: list[RetrievedPassage]
    """Best first."""


class RetrievalResult(ResponseModel):
    """The passages of a choice."""

    source: Source
    chunks: list[RetrievedChunk]
    details: dict[str, Any] | None = None
    """What a recipe's way of decoding says of the answer, under the recipe's name: its segments, the passages that they
    were written from, scores. Absent without a recipe."""


class CompletionLogprobs(ResponseModel):
    """Log-probabilities of a completion's tokens."""

    tokens: list[str]
    """Texts of the tokens; `bytes:\\xe6` for one that is a part of a character."""
    token_logprobs: list[float]
    """Of each token; -9999 for what is as good as impossible."""
    top_logprobs: list[dict[str, float]] | None
    """Of the most likely tokens at each place; null where none are asked for."""
    text_offset: list[int]
    """Where each token begins in the answer, in characters."""


class TokenLogprob(ResponseModel):
    """A token of a chat and its log-probability."""

    token: str
    """Its text; `\\xe6` for a part of a character."""
    logprob: float
    """-9999 for what is as good as impossible."""
    bytes: list[int] | None
    """Its bytes; null where they are not known."""


class ChosenTokenLogprob(TokenLogprob):
    """A token of the answer, with the most likely ones at its place."""

    top_logprobs: list[TokenLogprob]
    """Most likely first."""


class ChatLogprobs(ResponseModel):
    """Log-probabilities of a chat's tokens."""

    content: list[ChosenTokenLogprob]
    """One for each token."""
    refusal: None


Logprobs = TypeVar("Logprobs")


class _Choice(ResponseModel, Generic[Logprobs]):
    index: int
    """All choices of the first prompt come before those of the second."""
    logprobs: Logprobs | None
    """Null where none are asked for."""
    finish_reason: FinishReason
    """`stop`: an end token or a stop string; `length`: a limit."""
    retrieval: RetrievalResult
    """The passages that the answer was conditioned on."""


class CompletionChoice(_Choice[CompletionLogprobs]):
    """One answer of a completion."""

    text: str


class AssistantMessage(ResponseModel):
    """The answer of a chat."""

    role: Literal["assistant"]
    content: str


class ChatChoice(_Choice[ChatLogprobs]):
    """One answer of a chat."""

    message: AssistantMessage


class _ChunkChoice(ResponseModel, Generic[Logprobs]):
    index: int
    """Which choice this is new text of."""
    logprobs: Logprobs | None
    """Of the new tokens; null where none are asked for."""
    finish_reason: FinishReason | None
    """Null until the answer has ended."""
    retrieval: RetrievalResult | None = None
    """Chunks whose passages are new; absent without."""


class CompletionChunkChoice(_ChunkChoice[CompletionLogprobs]):
    """What is new in one answer of a streamed completion."""

    text: str


class ChatDelta(ResponseModel):
    """New text of a chat."""

    role: Literal["assistant"] = "assistant"
    """In the first event of a choice."""
    content: str = ""
    """Absent in the last event."""


class ChatChunkChoice(_ChunkChoice[ChatLogprobs]):
    """What is new in one answer of a streamed chat."""

    delta: ChatDelta


class _Answer(ResponseModel):
    id: str
    """Every event of a stream has the same."""
    created: int
    """When the answer began, in seconds since 1970."""
    model: str
    """The served model."""


class CompletionResponse(_Answer):
    """A completion."""

    object: Literal["text_completion"]
    choices: list[CompletionChoice]
    usage: Usage


class ChatResponse(_Answer):
    """A chat's answer."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: Usage


class CompletionChunk(_Answer):
    """One event of a streamed completion."""

    object: Literal["text_completion"]
    choices: list[CompletionChunkChoice]
    """One; none in the event with the usage."""
    usage: Usage | None = None
    """With `stream_options.include_usage`: null until the last event."""


class ChatChunk(_Answer):
    """One event of a streamed chat."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChatChunkChoice]
    """One; none in the event with the usage."""
    usage: Usage | None = None
    """With `stream_options.include_usage`: null until the last event."""


class ModelRetrieval(ResponseModel):
    """What requests may say in `retrieval`."""

    default: Source
    """The source where a request does not say."""
    sources: list[Source]
    """All that this server has."""
    chunk_length: int
    """Tokens of a chunk."""
    k: int
    """Passages of a chunk where a request does not say."""
    max_k: int
    """Most passages of a chunk."""


class ModelCard(ResponseModel):
    """The served model."""

    id: str
    object: Literal["model"]
    created: int
    """When it was loaded, in seconds since 1970."""
    owned_by: Literal["retro"]
    root: str
    """The model whose weights answer."""
    parent: str | None
    """The model that it is an adapter of; null for that one."""
    max_model_len: int
    """Most tokens of prompt and answer together."""
    max_new_tokens: int
    """Most tokens of an answer."""
    retrieval: ModelRetrieval


class ModelList(ResponseModel):
    """The served model, then the adapters on it."""

    object: Literal["list"]
    data: list[ModelCard]


class HealthResponse(ResponseModel):
    """The state of the server."""

    status: State
    """`failing`: steps fail again and again; `stalled`: one takes too long; `dead`: its thread has ended."""
    live: bool
    """False where only a new process will help."""
    ready: bool
    """Whether requests are accepted and answered."""
    running: int
    """Answers that are being generated."""
    waiting: int
    """Answers that were accepted and have not begun."""
    failed_steps: int
