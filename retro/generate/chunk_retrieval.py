"""What the encoder reads while a sequence grows: where its chunks end, what each end asks, and the passages as tokens.

The prompt is padded on the left, in thought, so that its last token ends a chunk. Chunks end at every M tokens counted
back from there, and after the prompt at every M, or at every `LiveRetrieval.interval`.
"""

# Dims in this file.
#   N chunk ends   K neighbors   R tokens of a neighbor   M tokens in a chunk

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from retro.generate.detokenize import Detokenizer
from retro.generate.request import GivenPassages, LiveRetrieval, Neighbors, Reading
from retro.qa.passages import Encoder, NeighborText, Retrieve, chunk_texts, neighbor_tokens
from retro.qa.question import PassageLike
from retro.qa.sample_layout import left_pad

Passages = tuple[PassageLike, ...]


class Tokenizer(Encoder, Detokenizer, Protocol):
    """The part of a tokenizer that generation needs."""


@dataclass(frozen=True, kw_only=True)
class ChunkEnd:
    """A token that ends a chunk, and what is asked there."""

    position: int
    """Counted from the start of the prompt."""
    reader: ChunkReader
    given: Passages | None
    """Passages that are there already; None: search."""
    question: str
    """What the search asks; empty: the chunk's own text."""
    chunk: Sequence[int]
    """The last M tokens, fewer at the start."""


@dataclass(frozen=True, kw_only=True)
class ChunkNeighbors:
    """What was found for the end of a chunk."""

    position: int
    passages: Passages
    neighbors: Neighbors | None
    """None: nothing to read, and nothing in view that would have to go."""


class ChunkReader:
    """The chunks of one sequence."""

    def __init__(self, reading: Reading, prompt_length: int, chunk_length: int) -> None:
        self.has_read = False
        """Whether a chunk was given neighbors, which stay in view until the next chunk ends."""
        self.given: tuple[Passages, Neighbors | None] | None = None
        """Passages given at every chunk, and their tokens once they were made."""
        self._reading = reading
        self._prompt, self._chunk = prompt_length, chunk_length
        interval = reading.interval if isinstance(reading, LiveRetrieval) else None
        self._interval = interval or chunk_length
        self._next = chunk_length - 1 - left_pad(prompt_length, chunk_length)

    def ends(self, ids: Sequence[int]) -> Iterator[ChunkEnd]:
        """The chunk ends in a sequence that were not yet asked for.

        Args:
            ids: All its tokens so far.
        """
        while self._next < len(ids) and self._reading is not None:
            position, live = self._next, self._reading
            in_prompt = position < self._prompt
            yield ChunkEnd(
                position=position,
                reader=self,
                given=live.passages if isinstance(live, GivenPassages) else None,
                question=live.question if isinstance(live, LiveRetrieval) and in_prompt else "",
                chunk=ids[max(0, position + 1 - self._chunk) : position + 1],
            )
            self._next += self._chunk if position < self._prompt - 1 else self._interval

    def swap(self, passages: Passages, position: int) -> None:
        """Read these passages instead of anything else, from the chunk on that ends at `position`."""
        self._reading, self.given = GivenPassages(passages=passages), None
        self._interval, self._next = self._chunk, position

    @property
    def most_passages(self) -> int | None:
        """Passages that a search keeps; None: all that are given."""
        return self._reading.passages if isinstance(self._reading, LiveRetrieval) else None


class NeighborFinder:
    """Finds what chunks read; the searches of all sequences are one call."""

    def __init__(
        self, tokenizer: Tokenizer, retrieve: Retrieve | None, *, retrieved_length: int, neighbor_text: NeighborText
    ) -> None:
        self.retrieve = retrieve
        self._tokenizer, self._form, self._length = tokenizer, neighbor_text, retrieved_length

    def find(self, ends: Sequence[ChunkEnd]) -> list[ChunkNeighbors]:
        """Passages and neighbor tokens of chunk ends, in their order, which is that of their positions.

        Args:
            ends: Of any number of sequences.
        """
        found = self._passages(ends)
        made = self._neighbors(ends, found)
        result = []
        for end, passages, neighbors in zip(ends, found, made, strict=True):
            if neighbors is None and end.reader.has_read:
                # Else what the chunk before read would stay in view.
                neighbors = _nothing(self._length)
            end.reader.has_read |= neighbors is not None
            result.append(ChunkNeighbors(position=end.position, passages=passages, neighbors=neighbors))
        return result

    def _passages(self, ends: Sequence[ChunkEnd]) -> list[Passages]:
        searching = [end for end in ends if end.given is None]
        texts_of = zip(searching, chunk_texts([end.chunk for end in searching], self._tokenizer), strict=True)
        asked = {id(end): end.question or text for end, text in texts_of}
        # A chunk of control tokens has no text to search with.
        texts = list(dict.fromkeys(text for text in asked.values() if text.strip()))
        answers: Sequence[Sequence[PassageLike]] = []
        if texts:
            if self.retrieve is None:
                raise ValueError("a chunk is to be searched for, and there is no retriever")
            answers = self.retrieve(texts)
            if len(answers) != len(texts):
                raise ValueError(f"the retriever answered {len(answers)} of {len(texts)} texts")
        known = {text: tuple(one) for text, one in zip(texts, answers, strict=True)}
        return [
            known.get(asked[id(end)], ())[: end.reader.most_passages] if end.given is None else end.given
            for end in ends
        ]

    def _neighbors(self, ends: Sequence[ChunkEnd], found: Sequence[Passages]) -> list[Neighbors | None]:
        """Neighbor tokens; those of given passages are made once and kept with the sequence."""
        wanted: dict[int, Passages] = {}
        for end, passages in zip(ends, found, strict=True):
            if passages and not _is_kept(end, passages):
                wanted[id(passages)] = passages
        most = max((len(one) for one in wanted.values()), default=0)
        tokens = neighbor_tokens(
            list(wanted.values()),
            self._tokenizer,
            passages_per_question=most,
            retrieved_length=self._length,
            form=self._form,
        )
        mask_NKR = tokens.mask(np.arange(len(wanted)))
        made = {
            key: Neighbors(tokens.tokens_NKR[row, : len(one)].astype(np.int64), mask_NKR[row, : len(one)])
            for row, (key, one) in enumerate(wanted.items())
        }
        return [self._of(end, passages, made) for end, passages in zip(ends, found, strict=True)]

    def _of(self, end: ChunkEnd, passages: Passages, made: dict[int, Neighbors]) -> Neighbors | None:
        if not passages:
            return None
        kept = end.reader.given
        if kept is not None and kept[0] is passages:
            return kept[1]
        if end.given is not None:
            end.reader.given = (passages, made[id(passages)])
        return made[id(passages)]


def _is_kept(end: ChunkEnd, passages: Passages) -> bool:
    return end.reader.given is not None and end.reader.given[0] is passages


def _nothing(retrieved_length: int) -> Neighbors:
    """One missing neighbor [1, R]."""
    return Neighbors(np.zeros((1, retrieved_length), dtype=np.int64), np.zeros((1, retrieved_length), dtype=np.bool_))
