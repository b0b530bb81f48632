"""The forward pass of one step: new tokens of all running requests, and the prompts of those that begin.

Requests that begin with the same tokens and reading compute them once: the others are forks of the first.
"""

# Dims in this file.
#   B sequences of a step   T new tokens of one sequence   V vocabulary

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from retro.generate.chunk_retrieval import ChunkNeighbors, NeighborFinder
from retro.generate.generation import Generation
from retro.generate.prefix import equal_beginnings, fork_rows, open_rows
from retro.generate.request import Decoder, Extension
from retro.generate.sampling import Probabilities


class BatchForward:
    """A decoder, and what finds the neighbors that it reads."""

    def __init__(self, decoder: Decoder, finder: NeighborFinder) -> None:
        self._decoder, self._finder = decoder, finder

    def logits(self, generations: Sequence[Generation]) -> Tensor:
        """Logits [B, V] of the token that follows each sequence, after the decoder has read what is new of it.

        Sequences to which a hook appended are a call of their own: only they need the logits on the way.

        Args:
            generations: Running ones; rows are opened for those that have none.

        Raises:
            RetroError: The search failed.
        """
        leaders = self._open(generations)
        logits = {
            place: one.logits_V
            for place, one in enumerate(generations)
            if one.logits_V is not None and not one.has_unread and place not in leaders
        }
        extensions = self._extensions(generations)
        appended = [place for place, one in enumerate(generations) if one.appended]
        others = {*appended, *leaders, *logits}
        if not others:
            return self._decoder.extend(extensions)
        plain = [place for place in range(len(generations)) if place not in others]
        if plain:
            logits |= dict(zip(plain, self._decoder.extend([extensions[place] for place in plain]), strict=True))
        if appended:
            everything = self._decoder.extend_all([extensions[place] for place in appended])
            for place, logits_TV in zip(appended, everything, strict=True):
                _take_appended(generations[place], logits_TV)
                logits[place] = logits_TV[-1]
        forks = fork_rows(self._decoder, [generations[leader].row for leader in leaders.values()])
        for (place, leader), row in zip(leaders.items(), forks, strict=True):
            generations[place].row, logits[place] = row, logits[leader]
        return torch.stack([logits[place] for place in range(len(generations))])

    def _open(self, generations: Sequence[Generation]) -> dict[int, int]:
        """Open rows for new requests, but for those that begin as another does: by place, whose fork they will be."""
        new = [place for place, one in enumerate(generations) if one.row < 0]
        equal = equal_beginnings([generations[place] for place in new], Generation.begins_as)
        leaders = {new[place]: new[first] for place, first in equal.items()}
        opened = [place for place in new if place not in leaders]
        begun = [generations[place] for place in opened]
        rows = open_rows(self._decoder, [(one.held, one.request.adapter, one.request.knowledge) for one in begun])
        for place, row in zip(opened, rows, strict=True):
            generations[place].row = row
        return leaders

    def _extensions(self, generations: Sequence[Generation]) -> list[Extension]:
        """What is new of each sequence, with the neighbors of the chunks that end in it; one search for all."""
        ends = [one.chunk_ends() for one in generations]
        found: Iterator[ChunkNeighbors] = iter(self._finder.find([end for mine in ends for end in mine]))
        return [one.extension([next(found) for _ in mine]) for one, mine in zip(generations, ends, strict=True)]


def _take_appended(generation: Generation, logits_TV: Tensor) -> None:
    """Record appended tokens with the log-probabilities that the model gives them.

    Args:
        generation: Its last `appended` ids are those.
        logits_TV: After each new token; before the first appended one there is always a chosen one.
    """
    count, request = generation.appended, generation.request
    ids = generation.ids[-count:]
    probabilities = Probabilities(logits_TV[-count - 1 : -1])
    generation.take_appended(
        [
            probabilities.token(row, id_, logprob, request.top_logprobs, request.named_tokens, appended=True)
            for row, (id_, logprob) in enumerate(zip(ids, probabilities.of(ids), strict=True))
        ]
    )
