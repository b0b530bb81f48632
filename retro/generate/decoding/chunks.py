"""Which neighbors each new token attends to: those of a chunk that ends in this call, or those that its row has cached.

The token that ends a chunk is the first to attend to the chunk's neighbors; the M - 1 after it do too. Relative to the
chunk it has position M - 1, the next one M, and so on to 2 M - 2 (see retro/model/attention.py).
"""

# Dims in this file.
#   P packed tokens   E chunks that end among them   M tokens in a chunk   K neighbors   R tokens of a neighbor
#   W tokens that attend to a new chunk's neighbors, at most M   B slots   T cache entries

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from retro.generate.decoding.batch import Batch, DecodeGroup, Prefill, Span, adjacent_slots
from retro.generate.decoding.rows import Row
from retro.generate.request import Neighbors


@dataclass(frozen=True)
class NewChunk:
    """A chunk that ends with a new token."""

    span: Span
    place: int
    """The token that ends it, within the span."""
    seen: int
    """New tokens that attend to its neighbors, that one included."""
    last: bool
    """Whether it is the row's last, whose neighbors are cached."""
    neighbors: Neighbors

    @property
    def first(self) -> int:
        """The token that ends it, among the packed ones."""
        return self.span.offset + self.place


@dataclass(frozen=True)
class NewChunks:
    """What the encoder and cross-attention need to know of the chunks that end with new tokens."""

    neighbors_EKR: Tensor
    mask_EKR: Tensor
    slot_E1: Tensor
    buffer_EM: Tensor
    """Places of a chunk's tokens in the encoder state buffer, for tokens of earlier calls."""
    token_EM: Tensor
    """Their places among the packed tokens, for new ones."""
    new_EM: Tensor
    all_new: bool
    """Whether all are new, so that the buffer is not needed."""
    real_EM: Tensor
    """False before the row's first token."""
    reader_WE: Tensor
    """Packed tokens that attend to a chunk's neighbors; repeated where there are fewer than W."""
    reads_WE: Tensor
    """False where repeated."""
    stored: tuple[int, ...]
    """The last chunks of their rows, whose neighbors are cached."""
    stored_slots: tuple[int, ...]


@dataclass(frozen=True)
class CrossAttentionPlan:
    """What cross-attention needs to know of the new tokens, in every layer."""

    has_neighbors_P11: Tensor | None
    """Whether a token has neighbors; None where all have."""
    position_P: Tensor
    """Tokens since the chunk's last, 0 to M - 1; 0 where there is no chunk. Arbitrary where nothing is attended to."""
    decodes: tuple[DecodeGroup, ...]
    prefills: tuple[Prefill, ...]
    """Tokens that attend to the neighbors that their row has cached."""
    new: NewChunks | None
    ended: tuple[tuple[Row, NewChunk | None], ...]
    """Rows whose last chunk changes with this call; None: they attend to no neighbors from now on."""

    @property
    def needed(self) -> bool:
        """Whether any token attends to neighbors."""
        return self.new is not None or bool(self.decodes or self.prefills)


def no_cross_attention(batch: Batch, ended: tuple[tuple[Row, NewChunk | None], ...] = ()) -> CrossAttentionPlan:
    """The plan of a call in which no token attends to neighbors."""
    return CrossAttentionPlan(None, batch.position_P, (), (), None, ended)


def plan_cross_attention(batch: Batch, mask_BT: Tensor, chunk_length: int, retrieved_length: int) -> CrossAttentionPlan:
    """Decide which token attends to which neighbors.

    Args:
        batch: The new tokens.
        mask_BT: [slots, entries] True where a token of a row's cached neighbors is real.
        chunk_length: M.
        retrieved_length: R.
    """
    chunks = [chunk for span in batch.spans if span.neighbors for chunk in _chunks_of(span, chunk_length)]
    real = [chunk for chunk in chunks if chunk.neighbors.mask_KR.any()]
    ended = tuple((chunk.span.row, chunk if chunk.neighbors.mask_KR.any() else None) for chunk in chunks if chunk.last)
    continuing = [(span, count) for span in batch.spans if (count := _continuing(span, chunk_length))]
    if not real and not continuing:
        return no_cross_attention(batch, ended)
    distance, sees = _distances(len(batch.tokens_P), real, continuing)
    device = mask_BT.device
    everyone = bool(sees.all())
    return CrossAttentionPlan(
        has_neighbors_P11=None if everyone else torch.from_numpy(sees).to(device)[:, None, None],
        position_P=torch.from_numpy(distance).to(device),
        decodes=_decodes([span for span, _ in continuing if span.count == 1], mask_BT, retrieved_length),
        prefills=tuple(
            _prefill(span, count, mask_BT, retrieved_length) for span, count in continuing if span.count > 1
        ),
        new=_new_chunks(real, chunk_length, device) if real else None,
        ended=ended,
    )


def _chunks_of(span: Span, chunk_length: int) -> list[NewChunk]:
    places = sorted(span.neighbors)
    return [
        NewChunk(
            span=span,
            place=place,
            seen=min(following - place, chunk_length),
            last=place == places[-1],
            neighbors=span.neighbors[place],
        )
        for place, following in pairwise([*places, span.count])
    ]


def _continuing(span: Span, chunk_length: int) -> int:
    """How many of the new tokens attend to the neighbors that the row has cached."""
    if span.row.ended is None:
        return 0
    left = span.row.ended + chunk_length - span.start
    return max(0, min(left, min(span.neighbors, default=span.count)))


def _distances(
    tokens: int, real: Sequence[NewChunk], continuing: Sequence[tuple[Span, int]]
) -> tuple[np.ndarray, np.ndarray]:
    distance, sees = np.zeros(tokens, dtype=np.int64), np.zeros(tokens, dtype=np.bool_)
    for span, count in continuing:
        since = span.start - (span.row.ended or 0)
        distance[span.offset : span.offset + count] = np.arange(since, since + count)
        sees[span.offset : span.offset + count] = True
    for chunk in real:
        distance[chunk.first : chunk.first + chunk.seen] = np.arange(chunk.seen)
        sees[chunk.first : chunk.first + chunk.seen] = True
    return distance, sees


def _decodes(singles: Sequence[Span], mask_BT: Tensor, retrieved_length: int) -> tuple[DecodeGroup, ...]:
    found = []
    for spans in adjacent_slots(singles):
        first, keys = spans[0].row.slot, [span.row.neighbors * retrieved_length for span in spans]
        mask = None
        if min(keys) < max(keys) or any(span.row.padded for span in spans):
            mask = mask_BT[first : first + len(spans), None, None, : max(keys)]
        found.append(DecodeGroup(spans[0].offset, first, len(spans), max(keys), mask))
    return tuple(found)


def _prefill(span: Span, count: int, mask_BT: Tensor, retrieved_length: int) -> Prefill:
    slot, keys = span.row.slot, span.row.neighbors * retrieved_length
    mask = mask_BT[slot, None, :keys] if span.row.padded else None
    return Prefill(span.offset, count, slot, keys, mask)


def _new_chunks(real: Sequence[NewChunk], chunk_length: int, device: torch.device) -> NewChunks:
    neighbors_EKR, mask_EKR = _same_count([chunk.neighbors for chunk in real])
    end_E1 = np.array([[chunk.span.start + chunk.place] for chunk in real])
    start_E1 = np.array([[chunk.span.start] for chunk in real])
    offset_E1 = np.array([[chunk.span.offset] for chunk in real])
    position_EM = end_E1 + np.arange(1 - chunk_length, 1)
    seen_E, first_E = (np.array([getattr(chunk, name) for chunk in real]) for name in ("seen", "first"))
    place_W1 = np.arange(seen_E.max())[:, None]
    stored = tuple(number for number, chunk in enumerate(real) if chunk.last)

    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)

    return NewChunks(
        neighbors_EKR=tensor(neighbors_EKR),
        mask_EKR=tensor(mask_EKR),
        slot_E1=tensor(np.array([[chunk.span.row.slot] for chunk in real])),
        buffer_EM=tensor(position_EM % chunk_length),
        token_EM=tensor(np.maximum(position_EM - start_E1 + offset_E1, 0)),
        new_EM=tensor(position_EM >= start_E1),
        all_new=bool(((position_EM >= start_E1) | (position_EM < 0)).all()),
        real_EM=tensor(position_EM >= 0),
        reader_WE=tensor(first_E + np.minimum(place_W1, seen_E - 1)),
        reads_WE=tensor(place_W1 < seen_E),
        stored=stored,
        stored_slots=tuple(real[number].span.row.slot for number in stored),
    )


def _same_count(given: Sequence[Neighbors]) -> tuple[np.ndarray, np.ndarray]:
    """[E, K, R] ids and masks, K the most that a chunk has; the others get missing ones."""
    most = max(len(one.tokens_KR) for one in given)
    size = (len(given), most, given[0].tokens_KR.shape[1])
    tokens, mask = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.bool_)
    for number, one in enumerate(given):
        tokens[number, : len(one.tokens_KR)] = one.tokens_KR
        mask[number, : len(one.mask_KR)] = one.mask_KR
    return tokens, mask
