"""Log-likelihood of continuations, for evaluation and for recipes that rank texts."""

# Dims in this file.
#   T tokens of a continuation   V vocabulary

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from retro.common.errors import ConfigError
from retro.generate.chunk_retrieval import ChunkEnd, ChunkNeighbors, ChunkReader, NeighborFinder
from retro.generate.prefix import HeldPrefix, PrefixCache, equal_beginnings, fork_rows, open_rows
from retro.generate.request import Decoder, Extension, Knowledge, Prefix, Reading, Retrieved
from retro.generate.request_checks import require_adapter, require_knowledge, require_prompt, require_reading
from retro.generate.sampling import Probabilities


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A continuation to be scored."""

    prompt: Sequence[int]
    """At least one token; the end-of-document token begins a text. May be empty with a `prefix`."""
    continuation: Sequence[int]
    """At least one token."""
    reading: Reading = None
    """What the encoder reads, as while generating."""
    prefix: Prefix | None = None
    """Tokens before the prompt that the engine has computed, as `Request.prefix`."""
    adapter: str = ""
    """What it is read with, as `Request.adapter`."""
    knowledge: Knowledge | None = None
    """Documents that prompt and continuation attend to, as `Request.knowledge`."""

    @property
    def whole_prompt(self) -> tuple[int, ...]:
        """Prefix and prompt."""
        return (*(() if self.prefix is None else self.prefix.tokens), *self.prompt)


@dataclass(frozen=True, kw_only=True)
class Score:
    """The log-likelihood of a continuation."""

    logprob: float
    """Sum over its tokens, in nats."""
    greedy: bool
    """Whether each of its tokens is the likeliest one where it is."""
    logprobs: tuple[float, ...]
    """Of each token."""
    retrieved: tuple[Retrieved, ...] = ()
    """What the encoder read, chunk by chunk."""


@torch.inference_mode()
def score(
    asked: Sequence[Scored], decoder: Decoder, finder: NeighborFinder, prefixes: PrefixCache, *, at_once: int
) -> list[Score]:
    """Score continuations, `at_once` in a batch, in their order.

    Args:
        asked: Any number of them. Equal prompts within a batch are computed once.
        decoder: The model.
        finder: Finds what the encoder reads.
        prefixes: Those that may be continued.
        at_once: Sequences that the decoder holds at the same time.

    Raises:
        ConfigError: A prompt or continuation is empty, does not fit, or cannot be read to; a prefix is not held.
        TrainingError: The model's logits are not finite.
    """
    for one in asked:
        prefixes.find(one.prefix)
        prefixes.require_adapter(one.prefix, one.adapter)
        prefixes.require_knowledge(one.prefix, one.knowledge)
        _require(one, decoder, searches=finder.retrieve is not None)
    scores: list[Score] = []
    for start in range(0, len(asked), at_once):
        block = [_Scoring.of(one, prefixes.find(one.prefix)) for one in asked[start : start + at_once]]
        scores += _score_together(block, decoder, finder)
    return scores


def _require(one: Scored, decoder: Decoder, *, searches: bool) -> None:
    # The last token is asked for and never read.
    prompt = one.whole_prompt
    require_prompt("Scored.prompt", prompt, decoder)
    if not one.continuation:
        raise ConfigError("Scored.continuation", [], "needs at least one token to score")
    room = decoder.sequence_length + 1 - len(prompt)
    if len(one.continuation) > room:
        need = f"needs at most {room} after a prompt of {len(prompt)}, in sequences of {decoder.sequence_length}"
        raise ConfigError("Scored.continuation", f"{len(one.continuation)} tokens", need)
    require_prompt("Scored.continuation", one.continuation[:-1] or one.continuation, decoder)
    require_prompt("Scored.continuation", one.continuation[-1:], decoder)
    require_reading(one.reading, decoder, searches=searches)
    require_adapter("Scored.adapter", one.adapter, decoder)
    require_knowledge("Scored.knowledge", one.knowledge, decoder)


@dataclass(eq=False)
class _Scoring:
    """A continuation while it is scored."""

    asked: Scored
    held: HeldPrefix | None
    prompt: tuple[int, ...]
    """With the prefix."""
    first: int
    """Tokens that the decoder has read before: of the prefix."""
    chunks: list[ChunkNeighbors] = field(default_factory=list)
    row: int = -1
    """-1 until it is opened."""
    logits: list[Tensor] = field(default_factory=list)
    """[1, V] of its first token, and [T - 1, V] of the others."""

    @classmethod
    def of(cls, asked: Scored, held: HeldPrefix | None) -> _Scoring:
        """Not begun."""
        return cls(asked, held, asked.whole_prompt, 0 if held is None else held.read)

    def begins_as(self, other: _Scoring) -> bool:
        """Whether both read the same before their continuations."""
        mine, its = self.asked, other.asked
        same = mine.prefix == its.prefix and mine.reading == its.reading and mine.adapter == its.adapter
        return same and mine.knowledge == its.knowledge and self.prompt == other.prompt

    def chunk_ends(self, chunk_length: int) -> list[ChunkEnd]:
        """Ends of chunks that the decoder has not read."""
        reader = ChunkReader(self.asked.reading, len(self.prompt), chunk_length)
        reader.has_read = self.held is not None and self.held.has_read
        ids = [*self.prompt, *self.asked.continuation[:-1]]
        return [end for end in reader.ends(ids) if end.position >= self.first]

    def extension(self, tokens: Sequence[int], first: int) -> Extension:
        """New tokens, the first of them at a position."""
        found = {one.position - first: one.neighbors for one in self.chunks if one.neighbors is not None}
        return Extension(self.row, tokens, {at: one for at, one in found.items() if 0 <= at < len(tokens)})


def _score_together(block: Sequence[_Scoring], decoder: Decoder, finder: NeighborFinder) -> list[Score]:
    ends = [one.chunk_ends(decoder.chunk_length) for one in block]
    found = iter(finder.find([end for mine in ends for end in mine]))
    for one, mine in zip(block, ends, strict=True):
        one.chunks = [next(found) for _ in mine]
    try:
        _read_prompts(block, decoder)
        _read_continuations(block, decoder)
    finally:
        for one in block:
            if one.row >= 0:
                decoder.close(one.row)
    return [_score(one.asked, torch.cat(one.logits), _retrieved(one)) for one in block]


def _read_prompts(block: Sequence[_Scoring], decoder: Decoder) -> None:
    """Logits of each first token. Apart from the continuations, so that those of prompts are not kept."""
    equal = equal_beginnings(block, _Scoring.begins_as)
    leaders = [one for place, one in enumerate(block) if place not in equal]
    rows = open_rows(decoder, [(one.held, one.asked.adapter, one.asked.knowledge) for one in leaders])
    for one, row in zip(leaders, rows, strict=True):
        one.row = row
    unread = [one for one in leaders if one.first < len(one.prompt)]
    for one in leaders:
        if one.held is not None and one.held.logits_V is not None and one.first == len(one.prompt):
            one.logits = [one.held.logits_V[None]]
    if unread:
        logits_BV = decoder.extend([one.extension(one.prompt[one.first :], one.first) for one in unread])
        for one, logits_1V in zip(unread, logits_BV.split(1), strict=True):
            one.logits = [logits_1V]
    rows = fork_rows(decoder, [block[first].row for first in equal.values()])
    for (place, first), row in zip(equal.items(), rows, strict=True):
        block[place].row, block[place].logits = row, list(block[first].logits)


def _read_continuations(block: Sequence[_Scoring], decoder: Decoder) -> None:
    """Logits of the other tokens."""
    longer = [one for one in block if len(one.asked.continuation) > 1]
    if longer:
        extensions = [one.extension(one.asked.continuation[:-1], len(one.prompt)) for one in longer]
        for one, logits_TV in zip(longer, decoder.extend_all(extensions), strict=True):
            one.logits.append(logits_TV)


def _retrieved(one: _Scoring) -> tuple[Retrieved, ...]:
    return tuple(Retrieved(position=chunk.position, passages=chunk.passages) for chunk in one.chunks)


def _score(one: Scored, logits_TV: Tensor, retrieved: tuple[Retrieved, ...]) -> Score:
    ids = list(one.continuation)
    logprobs = Probabilities(logits_TV).of(ids)
    greedy = logits_TV.argmax(dim=-1).tolist() == ids
    return Score(logprob=sum(logprobs), greedy=greedy, logprobs=tuple(logprobs), retrieved=retrieved)
