"""From parameters to what the engine is asked: prompts as token ids, sampling, and what the encoder reads."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from retro.common.qa_data import Context, PassageLike
from retro.generate.request import GivenPassages, LiveRetrieval, Reading, Request, Sampling
from retro.serve.errors import ApiError, invalid_value
from retro.serve.model_info import Limits, ModelInfo
from retro.serve.prompts import chat_ids, last_question
from retro.serve.protocol import (
    LARGEST_SEED,
    ChatParameters,
    CommonParameters,
    CompletionParameters,
    MessageParameters,
    RetrievalParameters,
)
from retro.sft.encode import fit_prompt

Source = Literal["live", "given", "none"]
COMPLETION_TOKENS = 16
"""OpenAI's default of `max_tokens` at /v1/completions."""


@dataclass(frozen=True, kw_only=True)
class PreparedRequest:
    """One HTTP request, ready for the engine."""

    requests: tuple[Request, ...]
    """All choices of the first prompt, then of the second, …"""
    prompts: tuple[str, ...]
    """The text before each choice that `echo` gives back; empty texts without."""
    prompt_tokens: int
    """Of all prompts; choices of one prompt share it."""
    source: Source
    logprobs: bool
    stream: bool
    include_usage: bool


def prepare_completion(
    given: CompletionParameters, served: ModelInfo, limits: Limits, default: Source
) -> PreparedRequest:
    """What a request to `/v1/completions` asks of the engine.

    Args:
        given: Its parameters.
        served: The model.
        limits: What may be asked.
        default: Where passages come from if it does not say.

    Raises:
        ApiError: It asks for more than there is.
    """
    if given.echo and given.logprobs is not None:
        raise invalid_value("echo", "is not supported together with logprobs: a prompt's tokens are not scored")
    prompts = _prompts(given.prompt, served)
    for number, prompt in enumerate(prompts):
        _require_fit(prompt, f"prompt[{number}]" if isinstance(given.prompt, list) else "prompt", served, limits)
    source, reading = _reading(given.retrieval, served, limits, default, question="", encoder_only=True)
    sampling = _sampling(given, _new_tokens("max_tokens", given.max_tokens, limits) or COMPLETION_TOKENS)
    requests = _choices(given, prompts, sampling, reading, given.logprobs or 0, limits)
    echoed = [served.tokenizer.decode(prompt) if given.echo else "" for prompt in prompts for _ in range(given.n)]
    return PreparedRequest(
        requests=requests,
        prompts=tuple(echoed),
        prompt_tokens=sum(map(len, prompts)),
        source=source,
        logprobs=given.logprobs is not None,
        stream=given.stream,
        include_usage=given.stream_options.include_usage,
    )


def prepare_chat(given: ChatParameters, served: ModelInfo, limits: Limits, default: Source) -> PreparedRequest:
    """What a request to `/v1/chat/completions` asks of the engine; arguments as `prepare_completion`.

    Raises:
        ApiError: It asks for more than there is.
    """
    question = last_question(given.messages)
    source, reading = _reading(given.retrieval, served, limits, default, question=question, encoder_only=False)
    if given.max_tokens is not None and given.max_completion_tokens is not None:
        raise invalid_value("max_tokens", "stands beside max_completion_tokens; give one of the two")
    name = "max_tokens" if given.max_completion_tokens is None else "max_completion_tokens"
    wanted = _new_tokens(name, given.max_completion_tokens or given.max_tokens, limits)
    shown = _shown(source, given.retrieval, served, question)
    prompt = _chat_ids(given.messages, shown, served, limits, wanted)
    _require_fit(prompt, "messages", served, limits)
    if given.top_logprobs is not None and not given.logprobs:
        raise invalid_value("top_logprobs", "needs logprobs: true beside it")
    sampling = _sampling(given, wanted or min(limits.new_tokens, served.sequence_length))
    requests = _choices(given, [prompt], sampling, reading, given.top_logprobs or 0, limits)
    return PreparedRequest(
        requests=requests,
        prompts=("",) * given.n,
        prompt_tokens=len(prompt),
        source=source,
        logprobs=given.logprobs,
        stream=given.stream,
        include_usage=given.stream_options.include_usage,
    )


def _chat_ids(
    messages: Sequence[MessageParameters],
    passages: Sequence[PassageLike],
    served: ModelInfo,
    limits: Limits,
    wanted: int | None,
) -> list[int]:
    """The prompt of a chat; passages in it are cut, then dropped, where it does not fit beside the answer."""
    ids = chat_ids(messages, passages, served)
    room = served.sequence_length - min(wanted or limits.new_tokens, served.sequence_length // 2)
    fitted = fit_prompt(ids, min(room, limits.prompt_tokens))
    # What does not fit without passages may still fit before a shorter answer.
    return [*ids.head, *ids.tail] if fitted is None else fitted[0]


def _prompts(prompt: Any, served: ModelInfo) -> list[list[int]]:
    """Token ids of each prompt: of a text, a list of ids, or a list of either."""
    many = prompt if isinstance(prompt, list) else [prompt]
    if many and all(_is_id(one) for one in many):
        many = [many]
    if not many:
        raise invalid_value("prompt", "is an empty list")
    texts = [one for one in many if isinstance(one, str)]
    rows = [one for one in many if isinstance(one, list) and one and all(_is_id(id_) for id_ in one)]
    if len(texts) == len(many):
        # An empty text begins a document.
        return [[*served.prefix, *ids] or [served.tokenizer.eod] for ids in served.tokenizer.encode_batch(texts)]
    if len(rows) < len(many):
        raise invalid_value("prompt", "needs a text, a list of texts, a list of token ids, or a list of such lists")
    largest, smallest = max(map(max, rows)), min(map(min, rows))
    if smallest < 0 or largest >= served.tokenizer.vocab_size:
        wrong = smallest if smallest < 0 else largest
        raise invalid_value(
            "prompt", f"has the token id {_short(wrong)}; ids are 0 to {served.tokenizer.vocab_size - 1}"
        )
    return rows


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _short(number: int) -> str:
    return str(number) if abs(number) < 10**20 else f"{'-' if number < 0 else ''}1e20 or more"


def _require_fit(prompt: Sequence[int], param: str, served: ModelInfo, limits: Limits) -> None:
    most = min(limits.prompt_tokens, served.sequence_length - 1)
    if len(prompt) > most:
        setting = "serve.max_prompt_tokens" if most == limits.prompt_tokens else "generate.sequence_length"
        message = f"{param}: has {len(prompt):,} tokens; this server takes {most:,} ({setting})"
        raise ApiError(400, message, param=param, code="context_length_exceeded")


def _new_tokens(param: str, wanted: int | None, limits: Limits) -> int | None:
    if wanted is not None and wanted > limits.new_tokens:
        raise invalid_value(param, f"needs at most {limits.new_tokens:,}, the limit of this server")
    return wanted


def _sampling(given: CommonParameters, new_tokens: int) -> Sampling:
    if given.min_tokens > new_tokens:
        raise invalid_value("min_tokens", f"needs at most {new_tokens}, the most tokens of the answer")
    return Sampling(
        temperature=given.temperature,
        top_k=min(given.top_k, 2**31),
        top_p=given.top_p,
        repetition_penalty=given.repetition_penalty,
        min_new_tokens=given.min_tokens,
        max_new_tokens=new_tokens,
        stop=given.stop,
    )


def _choices(
    given: CommonParameters,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    reading: Reading,
    top_logprobs: int,
    limits: Limits,
) -> tuple[Request, ...]:
    """`n` requests for each prompt. Choice i has seed + i: asked alone with that seed, it is the same answer."""
    if len(prompts) * given.n > limits.choices:
        message = f"asks for {len(prompts)} × {_short(given.n)} answers; this server gives {limits.choices} at once"
        raise invalid_value("n", message)
    first = secrets.randbits(32) if given.seed is None else given.seed
    seeds = [(first + choice) % (LARGEST_SEED + 1) for choice in range(given.n)]
    return tuple(
        Request(
            prompt=tuple(prompt),
            sampling=_with_seed(sampling, seed),
            reading=reading,
            top_logprobs=top_logprobs,
        )
        for prompt in prompts
        for seed in seeds
    )


def _with_seed(sampling: Sampling, seed: int) -> Sampling:
    return Sampling(**(vars(sampling) | {"seed": seed}))


def _reading(
    given: RetrievalParameters, served: ModelInfo, limits: Limits, default: Source, *, question: str, encoder_only: bool
) -> tuple[Source, Reading]:
    """Where passages come from, and what of it the encoder reads."""
    usable = served.reads_neighbors if encoder_only else served.uses_passages
    # An empty list of passages is no wish for a search.
    source: Source = given.source or ("given" if "passages" in given.model_fields_set else default)
    _require_agreement(given, source)
    if source != "none" and not usable:
        raise invalid_value(
            "retrieval.source", f"is {source!r}, and this model has no encoder to read passages; use 'none'"
        )
    if source == "live" and not served.reads_neighbors:
        _require_encoder(given, served)
    k, every = given.k or served.neighbors, given.every
    if max(k, len(given.passages)) > limits.passages:
        raise invalid_value("retrieval", f"asks for more than {limits.passages} passages, the limit of this server")
    if every is not None and every > served.chunk_length:
        raise invalid_value("retrieval.every", f"needs 1 to {served.chunk_length}, the tokens of a chunk")
    if source == "none":
        return source, None
    if source == "given":
        if not given.passages:
            raise invalid_value("retrieval.passages", "is empty; give passages, or another retrieval.source")
        return source, GivenPassages(passages=_given(given)) if served.reads_neighbors else None
    if served.retrieve is None:
        raise invalid_value("retrieval.source", "is 'live', and this server has no index; use 'given' or 'none'")
    live = LiveRetrieval(passages=k, every=every, question=question)
    return source, live if served.reads_neighbors else None


def _require_agreement(given: RetrievalParameters, source: Source) -> None:
    """Refuse what the source would leave unused."""
    if given.passages and source != "given":
        raise invalid_value("retrieval.passages", f"needs retrieval.source 'given', found {source!r}")
    for name, value in (("k", given.k), ("every", given.every)):
        if value is not None and source != "live":
            raise invalid_value(f"retrieval.{name}", f"needs retrieval.source 'live', found {source!r}")


def _require_encoder(given: RetrievalParameters, served: ModelInfo) -> None:
    """Refuse what only an encoder could follow."""
    for name, value in (("k", given.k), ("every", given.every)):
        if value is not None:
            shown = f"its prompts show {served.contexts_in_prompt} passages, whatever is asked for"
            raise invalid_value(f"retrieval.{name}", f"is for an encoder, and this model has none; {shown}")


def _given(given: RetrievalParameters) -> tuple[Context, ...]:
    return tuple(Context(one.title, one.text, one.document_id) for one in given.passages)


def _shown(source: Source, given: RetrievalParameters, served: ModelInfo, question: str) -> tuple[PassageLike, ...]:
    """The passages that stand in a chat's prompt."""
    if source == "given":
        return _given(given)[: served.contexts_in_prompt]
    if source == "live" and served.contexts_in_prompt:
        return served.search(question, served.contexts_in_prompt)
    return ()
