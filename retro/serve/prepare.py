"""A valid body to requests for the engine: sampling, retrieval, and a request for each choice."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from retro.generate.request import GivenPassages, LiveRetrieval, Reading, Request, Sampling
from retro.qa.question import Context, PassageLike
from retro.serve.errors import invalid_value
from retro.serve.model_info import Limits, ModelInfo
from retro.serve.prompts import chat_prompt, completion_prompts, last_question, short_number
from retro.serve.protocol import (
    LARGEST_SEED,
    ChatRequest,
    CompletionRequest,
    GenerationParameters,
    RetrievalOptions,
    Source,
)

COMPLETION_TOKENS = 16
"""OpenAI's default of `max_tokens` at /v1/completions."""


@dataclass(frozen=True, kw_only=True)
class PreparedRequest:
    """One HTTP request, ready for the engine."""

    requests: tuple[Request, ...]
    """All choices of the first prompt, then of the second, …"""
    echoes: tuple[str, ...]
    """The text before each choice that `echo` gives back; empty texts without."""
    prompt_tokens: int
    """Of all prompts; choices of one prompt share it."""
    source: Source
    logprobs: bool
    stream: bool
    include_usage: bool


def prepare_completion(body: CompletionRequest, model: ModelInfo, limits: Limits, default: Source) -> PreparedRequest:
    """The engine's requests for a body of `/v1/completions`.

    Args:
        body: Valid by itself.
        model: The served model.
        limits: What may be asked for.
        default: Where passages come from if the body does not say.

    Raises:
        ApiError: It asks for more than there is.
    """
    if body.echo and body.logprobs is not None:
        raise invalid_value("echo", "is not supported together with logprobs: a prompt's tokens are not scored")
    prompts = completion_prompts(body.prompt, model, limits)
    source, reading = _retrieval(body.retrieval, model, limits, default, question="", encoder_only=True)
    sampling = _sampling(body, _new_tokens("max_tokens", body.max_tokens, limits) or COMPLETION_TOKENS)
    echoes = [model.tokenizer.decode(prompt) if body.echo else "" for prompt in prompts]
    requests = _choices(body, prompts, sampling, reading, body.logprobs or 0, limits, model.adapter)
    return PreparedRequest(
        requests=requests,
        echoes=tuple(echo for echo in echoes for _ in range(body.n)),
        prompt_tokens=sum(map(len, prompts)),
        source=source,
        logprobs=body.logprobs is not None,
        stream=body.stream,
        include_usage=body.stream_options.include_usage,
    )


def prepare_chat(body: ChatRequest, model: ModelInfo, limits: Limits, default: Source) -> PreparedRequest:
    """The engine's requests for a body of `/v1/chat/completions`; arguments as `prepare_completion`.

    Raises:
        ApiError: It asks for more than there is.
    """
    question = last_question(body.messages)
    source, reading = _retrieval(body.retrieval, model, limits, default, question=question, encoder_only=False)
    if body.max_tokens is not None and body.max_completion_tokens is not None:
        raise invalid_value("max_tokens", "is set beside max_completion_tokens; give one of the two")
    name = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
    new_tokens = _new_tokens(name, body.max_completion_tokens or body.max_tokens, limits)
    if body.top_logprobs is not None and not body.logprobs:
        raise invalid_value("top_logprobs", "needs logprobs: true beside it")
    if model.recipe and body.logprobs:
        raise invalid_value(
            "logprobs", f"is not supported by this model, whose answers are put together ({model.recipe})"
        )
    shown = _shown_passages(source, body.retrieval, model, question)
    prompt = chat_prompt(body.messages, shown, model, limits, new_tokens)
    sampling = _sampling(body, new_tokens or model.answer_tokens or min(limits.new_tokens, model.sequence_length))
    requests = _choices(body, [prompt], sampling, reading, body.top_logprobs or 0, limits, model.adapter)
    if model.recipe:
        requests = tuple(dataclasses.replace(one, question=question, passages=shown) for one in requests)
    return PreparedRequest(
        requests=requests,
        echoes=("",) * body.n,
        prompt_tokens=len(prompt),
        source=source,
        logprobs=body.logprobs,
        stream=body.stream,
        include_usage=body.stream_options.include_usage,
    )


def _new_tokens(param: str, requested: int | None, limits: Limits) -> int | None:
    if requested is not None and requested > limits.new_tokens:
        raise invalid_value(param, f"needs at most {limits.new_tokens:,}, the limit of this server")
    return requested


def _sampling(body: GenerationParameters, new_tokens: int) -> Sampling:
    if body.min_tokens > new_tokens:
        raise invalid_value("min_tokens", f"needs at most {new_tokens}, the most tokens of the answer")
    return Sampling(
        temperature=body.temperature,
        top_k=min(body.top_k, 2**31),
        top_p=body.top_p,
        repetition_penalty=body.repetition_penalty,
        min_new_tokens=body.min_tokens,
        max_new_tokens=new_tokens,
        stop=body.stop,
    )


def _choices(
    body: GenerationParameters,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    reading: Reading,
    top_logprobs: int,
    limits: Limits,
    adapter: str,
) -> tuple[Request, ...]:
    """`n` requests for each prompt. Choice i has seed + i: sent alone with that seed, it has the same answer."""
    if len(prompts) * body.n > limits.choices:
        message = (
            f"asks for {len(prompts)} × {short_number(body.n)} answers; this server gives {limits.choices} at once"
        )
        raise invalid_value("n", message)
    first = secrets.randbits(32) if body.seed is None else body.seed
    seeds = [(first + choice) % (LARGEST_SEED + 1) for choice in range(body.n)]
    return tuple(
        Request(
            prompt=tuple(prompt),
            adapter=adapter,
            sampling=dataclasses.replace(sampling, seed=seed),
            reading=reading,
            top_logprobs=top_logprobs,
        )
        for prompt in prompts
        for seed in seeds
    )


def _retrieval(
    options: RetrievalOptions, model: ModelInfo, limits: Limits, default: Source, *, question: str, encoder_only: bool
) -> tuple[Source, Reading]:
    """Where passages come from, and which of them the encoder reads."""
    # Without an encoder a plain continuation reads no passages, wherever chats have theirs from.
    usual: Source = "none" if encoder_only and not model.reads_neighbors else default
    # An empty list of passages does not mean a search.
    source: Source = options.source or ("given" if "passages" in options.model_fields_set else usual)
    _require_agreement(options, source)
    if source != "none" and not (model.reads_neighbors if encoder_only else model.uses_passages):
        problem = f"is {source!r}, and this model has no encoder to read passages; use 'none'"
        raise invalid_value("retrieval.source", problem)
    if source == "live" and not model.reads_neighbors and not model.recipe:
        _require_no_encoder_options(options, model)
    k = options.k or model.neighbors
    if max(k, len(options.passages)) > limits.passages:
        raise invalid_value("retrieval", f"asks for more than {limits.passages} passages, the limit of this server")
    if options.every is not None and options.every > model.chunk_length:
        raise invalid_value("retrieval.every", f"needs 1 to {model.chunk_length}, the tokens of a chunk")
    if source == "live" and model.retrieve is None:
        raise invalid_value("retrieval.source", "is 'live', and this server has no index; use 'given' or 'none'")
    if source == "given" and not options.passages:
        raise invalid_value("retrieval.passages", "is empty; give passages, or another retrieval.source")
    if source == "none" or not model.reads_neighbors:
        return source, None
    if source == "given":
        return source, GivenPassages(passages=_given_passages(options))
    return source, LiveRetrieval(passages=k, interval=options.every, question=question)


def _require_agreement(options: RetrievalOptions, source: Source) -> None:
    """Refuse what the source would leave unused."""
    if options.passages and source != "given":
        raise invalid_value("retrieval.passages", f"needs retrieval.source 'given', found {source!r}")
    for name, value in (("k", options.k), ("every", options.every)):
        if value is not None and source != "live":
            raise invalid_value(f"retrieval.{name}", f"needs retrieval.source 'live', found {source!r}")


def _require_no_encoder_options(options: RetrievalOptions, model: ModelInfo) -> None:
    """Refuse what only an encoder could follow."""
    for name, value in (("k", options.k), ("every", options.every)):
        if value is not None:
            shown = f"its prompts show {model.contexts_in_prompt} passages, whatever is asked for"
            raise invalid_value(f"retrieval.{name}", f"is for an encoder, and this model has none; {shown}")


def _given_passages(options: RetrievalOptions) -> tuple[Context, ...]:
    return tuple(Context(one.title, one.text, one.document_id) for one in options.passages)


def _shown_passages(
    source: Source, options: RetrievalOptions, model: ModelInfo, question: str
) -> tuple[PassageLike, ...]:
    """The passages that stand in a chat's prompt, or that a recipe's program has at hand."""
    most = options.k or model.contexts_in_prompt if model.recipe else model.contexts_in_prompt
    if source == "given":
        return _given_passages(options)[:most]
    if source == "live" and most:
        return model.search(question, most)
    return ()
