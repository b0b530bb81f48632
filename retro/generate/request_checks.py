"""What a request may ask for: every setting out of range is one ConfigError, before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from retro.common.errors import ConfigError, require
from retro.generate.config import LARGEST_PENALTY, LEAST_PENALTY
from retro.generate.request import Decoder, Knowledge, LiveRetrieval, Reading, Request, Sampling

LONGER = " (generate.sequence_length)"
"""The setting that opens a model for longer sequences, as messages name it."""


def require_request(request: Request, decoder: Decoder, *, searches: bool) -> None:
    """Check a request against a model.

    Args:
        request: The request.
        decoder: The model.
        searches: Whether there is a retriever.

    Raises:
        ConfigError: A setting is out of range, the prompt does not fit, or the model cannot read what is given.
    """
    require_sampling(request.sampling)
    require_prompt("Request.prompt", request.prompt, decoder)
    require_reading(request.reading, decoder, searches=searches)
    require_adapter("Request.adapter", request.adapter, decoder)
    require_knowledge("Request.knowledge", request.knowledge, decoder)
    wanted = f"0 to {decoder.vocabulary}, the number of tokens"
    require(request, "top_logprobs", 0 <= request.top_logprobs <= decoder.vocabulary, wanted)
    for token in request.named_tokens:
        if not 0 <= token < decoder.vocabulary:
            raise ConfigError("Request.named_tokens", token, f"needs a token of the vocabulary, 0 to {_last(decoder)}")


def require_adapter(setting: str, adapter: str, decoder: Decoder) -> None:
    """Check that a model has an adapter of that name.

    Raises:
        ConfigError: It has not.
    """
    if adapter and adapter not in decoder.adapters:
        known = ", ".join(decoder.adapters) or "none"
        raise ConfigError(setting, adapter, f"needs an adapter that the model was opened with: {known}")


def require_knowledge(setting: str, knowledge: Knowledge | None, decoder: Decoder) -> None:
    """Check that a model can read documents as keys and values.

    Raises:
        ConfigError: It has no layers that do, or they read others.
    """
    if knowledge is None:
        return
    shape = decoder.knowledge_shape
    if shape is None:
        need = "needs a model whose layers read documents (recipe dynamic_prefix); this one has none that do"
        raise ConfigError(setting, knowledge.identity, need)
    found = tuple(knowledge.keys_values.shape)
    if len(found) != 5 or found[:3] != (shape.layers, 2, shape.groups) or found[4] != shape.width or not found[3]:
        need = f"needs shape ({shape.layers}, 2, {shape.groups}, n, {shape.width}) with n of 1 or more"
        raise ConfigError(setting, found, need)


def require_sampling(sampling: Sampling) -> None:
    """Check how tokens are to be chosen.

    Raises:
        ConfigError: A setting is out of range.
    """
    temperature, penalty = sampling.temperature, sampling.repetition_penalty
    require(sampling, "temperature", 0 <= temperature < math.inf, "a number, 0 or above")
    require(sampling, "top_k", sampling.top_k >= 0, "0 for all tokens, or how many to draw from")
    require(sampling, "top_p", 0 < sampling.top_p <= 1, "a share above 0 and up to 1")
    wanted = f"{LEAST_PENALTY:g} to {LARGEST_PENALTY:g}; 1 changes nothing"
    require(sampling, "repetition_penalty", LEAST_PENALTY <= penalty <= LARGEST_PENALTY, wanted)
    require(sampling, "min_new_tokens", sampling.min_new_tokens >= 0, "0 or more tokens")
    least = max(1, sampling.min_new_tokens)
    require(sampling, "max_new_tokens", sampling.max_new_tokens >= least, f"at least {least}, with min_new_tokens")
    require(sampling, "stop", all(sampling.stop), "texts that are not empty")
    require(sampling, "seed", sampling.seed >= 0, "0 or above")


def require_prompt(setting: str, prompt: Sequence[int], decoder: Decoder) -> None:
    """Check that a model can read a prompt.

    Raises:
        ConfigError: It is empty, too long, or holds a token that the model does not know.
    """
    if not prompt:
        raise ConfigError(setting, [], "needs at least one token; the end-of-document token begins a text")
    if len(prompt) > decoder.sequence_length:
        need = f"needs at most {decoder.sequence_length}, the tokens that the model is open for{LONGER}"
        raise ConfigError(setting, f"{len(prompt)} tokens", need)
    strange = next((token for token in prompt if not 0 <= token < decoder.vocabulary), None)
    if strange is not None:
        raise ConfigError(setting, strange, f"needs tokens of the vocabulary, 0 to {_last(decoder)}")


def require_reading(reading: Reading, decoder: Decoder, *, searches: bool) -> None:
    """Check that a model can be given what it is to read.

    Raises:
        ConfigError: It has no encoder, there is no retriever, or a setting of live retrieval is out of range.
    """
    if reading is None:
        return
    if not decoder.reads_neighbors:
        need = "needs a model with an encoder; a GPT is given passages in its prompt"
        raise ConfigError("Request.reading", type(reading).__name__, need)
    if isinstance(reading, LiveRetrieval):
        if not searches:
            raise ConfigError("Request.reading", type(reading).__name__, "needs a database and an index to search")
        require(reading, "passages", reading.passages >= 1, "at least 1")
        interval, most = reading.interval, decoder.chunk_length
        require(reading, "interval", interval is None or 1 <= interval <= most, f"1 to {most}, the tokens of a chunk")


def _last(decoder: Decoder) -> int:
    return decoder.vocabulary - 1
