"""How likely a model finds given continuations: for evaluation by log-likelihood, and for recipes that weigh texts."""

# Dims in this file.
#   T tokens of a continuation   V vocabulary

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from retro.common.errors import ConfigError
from retro.generate.chunk_retrieval import ChunkReader, NeighborFinder
from retro.generate.probabilities import Probabilities
from retro.generate.request import Decoder, Extension, Neighbors, Reading, Retrieved
from retro.generate.request_checks import require_prompt, require_reading


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A continuation to be scored."""

    prompt: Sequence[int]
    """At least one token; the end-of-document token begins a text."""
    continuation: Sequence[int]
    """At least one token."""
    reading: Reading = None
    """What the encoder reads, as while generating."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """What the model finds of a continuation."""

    logprob: float
    """Sum over its tokens, in nats."""
    greedy: bool
    """Whether each of its tokens is the likeliest one where it stands."""
    logprobs: tuple[float, ...]
    """Of each token."""
    retrieved: tuple[Retrieved, ...] = ()
    """What was read, chunk by chunk."""


@torch.inference_mode()
def score(asked: Sequence[Scored], decoder: Decoder, finder: NeighborFinder, *, at_once: int) -> list[Score]:
    """Score continuations, some at once, in their order.

    Args:
        asked: Any number of them.
        decoder: The model.
        finder: Finds what it reads.
        at_once: Sequences that the decoder holds at the same time.

    Raises:
        ConfigError: A prompt or continuation is empty, does not fit, or cannot be read to.
        TrainingError: The model's logits are not finite.
    """
    for one in asked:
        _require(one, decoder, searches=finder.retrieve is not None)
    scores: list[Score] = []
    for start in range(0, len(asked), at_once):
        scores += _score_together(asked[start : start + at_once], decoder, finder)
    return scores


def _require(one: Scored, decoder: Decoder, *, searches: bool) -> None:
    # The last token is asked for and never read.
    require_prompt("Scored.prompt", one.prompt, decoder)
    if not one.continuation:
        raise ConfigError("Scored.continuation", [], "needs at least one token to score")
    room = decoder.sequence_length + 1 - len(one.prompt)
    if len(one.continuation) > room:
        need = f"needs at most {room} after a prompt of {len(one.prompt)}, in sequences of {decoder.sequence_length}"
        raise ConfigError("Scored.continuation", f"{len(one.continuation)} tokens", need)
    require_prompt("Scored.continuation", one.continuation[:-1] or one.continuation, decoder)
    require_prompt("Scored.continuation", one.continuation[-1:], decoder)
    require_reading(one.reading, decoder, searches=searches)


def _score_together(asked: Sequence[Scored], decoder: Decoder, finder: NeighborFinder) -> list[Score]:
    ids = [[*one.prompt, *one.continuation[:-1]] for one in asked]
    readers = [ChunkReader(one.reading, len(one.prompt), decoder.chunk_length) for one in asked]
    ends = [list(reader.ends(mine)) for reader, mine in zip(readers, ids, strict=True)]
    everything = iter(finder.find([end for mine in ends for end in mine]))
    found = [[next(everything) for _ in mine] for mine in ends]
    read = [{one.position: one.neighbors for one in mine if one.neighbors is not None} for mine in found]
    rows = [decoder.open() for _ in asked]
    try:
        logits = _logits(asked, ids, read, rows, decoder)
    finally:
        for row in rows:
            decoder.close(row)
    return [
        _score(one, logits_TV, tuple(Retrieved(position=c.position, passages=c.passages) for c in mine))
        for one, logits_TV, mine in zip(asked, logits, found, strict=True)
    ]


def _logits(
    asked: Sequence[Scored],
    ids: Sequence[Sequence[int]],
    read: Sequence[dict[int, Neighbors]],
    rows: Sequence[int],
    decoder: Decoder,
) -> list[Tensor]:
    """Logits [T, V] of each continuation's tokens. Prompts are read first, so that theirs are not kept."""
    prompts = [
        Extension(row, one.prompt, {at: what for at, what in mine.items() if at < len(one.prompt)})
        for row, one, mine in zip(rows, asked, read, strict=True)
    ]
    first = decoder.extend(prompts)
    longer = [place for place, one in enumerate(asked) if len(one.continuation) > 1]
    rests = [
        Extension(
            rows[place],
            ids[place][len(asked[place].prompt) :],
            {at - len(asked[place].prompt): what for at, what in read[place].items() if at >= len(asked[place].prompt)},
        )
        for place in longer
    ]
    later = dict(zip(longer, decoder.extend_all(rests), strict=True)) if rests else {}
    return [
        torch.cat((first[place : place + 1], later[place])) if place in later else first[place : place + 1]
        for place in range(len(asked))
    ]


def _score(one: Scored, logits_TV: Tensor, retrieved: tuple[Retrieved, ...]) -> Score:
    ids = list(one.continuation)
    logprobs = Probabilities(logits_TV).of(ids)
    greedy = logits_TV.argmax(dim=-1).tolist() == ids
    return Score(logprob=sum(logprobs), greedy=greedy, logprobs=tuple(logprobs), retrieved=retrieved)
