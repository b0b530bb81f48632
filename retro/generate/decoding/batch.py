"""One call's new tokens, packed end to end, and which cache entries each of them attends to.

Rows with one new token come first, ordered by slot, then rows with several. So the rows of a running batch are
consecutive slots, and one attention call serves them all; a prompt has an attention call of its own.
"""

# Dims in this file.
#   P packed tokens   B slots of a decode group   T tokens of a cache

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from retro.generate.decoding.rows import Row, Rows
from retro.generate.request import Extension, Neighbors


@dataclass(frozen=True)
class Span:
    """The new tokens of one row."""

    row: Row
    order: int
    """The extension's place in the call."""
    offset: int
    """Its first token among the packed ones."""
    start: int
    """Tokens of the row before."""
    tokens: Sequence[int]
    neighbors: Mapping[int, Neighbors]

    @property
    def count(self) -> int:
        """How many tokens are new."""
        return len(self.tokens)


@dataclass(frozen=True)
class DecodeGroup:
    """One new token of each of some adjacent slots: one attention call serves them."""

    offset: int
    slot: int
    count: int
    keys: int
    """Cache entries of the longest."""
    mask_B11T: Tensor | None
    """True where a row has an entry; None where all have as many."""


@dataclass(frozen=True)
class Prefill:
    """Several new tokens of one row, and their attention over its cache."""

    offset: int
    count: int
    slot: int
    keys: int
    mask: Tensor | None
    """True where a token may attend to an entry, broadcastable to [1, 1, count, keys]."""
    causal: bool = False
    """Whether the cache holds these tokens alone, and each attends up to itself."""


@dataclass(frozen=True)
class Batch:
    """What self-attention needs to know of the new tokens, in every layer."""

    spans: tuple[Span, ...]
    singles: int
    """So many spans, the first, have one token."""
    tokens_P: Tensor
    position_P: Tensor
    """Counted from the row's first token."""
    slot_P: Tensor
    decodes: tuple[DecodeGroup, ...]
    prefills: tuple[Prefill, ...]

    @property
    def slots(self) -> int:
        """Slots that the caches need."""
        return 1 + max(span.row.slot for span in self.spans)

    @property
    def longest(self) -> int:
        """Tokens that the caches need for each."""
        return max(span.start + span.count for span in self.spans)


def plan_batch(extensions: Sequence[Extension], rows: Rows, device: torch.device) -> Batch:
    """Pack the new tokens of some rows."""
    spans = _spans(extensions, rows)
    singles = sum(span.count == 1 for span in spans)
    numbers = torch.tensor(
        [
            [token for span in spans for token in span.tokens],
            [span.start + place for span in spans for place in range(span.count)],
            [span.row.slot for span in spans for _ in span.tokens],
        ],
        device=device,
    )
    return Batch(
        spans=spans,
        singles=singles,
        tokens_P=numbers[0],
        position_P=numbers[1],
        slot_P=numbers[2],
        decodes=tuple(_decode_group(group, device) for group in adjacent_slots(spans[:singles])),
        prefills=tuple(_prefill(span, device) for span in spans[singles:]),
    )


def _spans(extensions: Sequence[Extension], rows: Rows) -> tuple[Span, ...]:
    found = [(one, order, rows[one.row]) for order, one in enumerate(extensions)]
    found.sort(key=lambda entry: (len(entry[0].tokens) > 1, entry[2].slot))
    spans, offset = [], 0
    for one, order, row in found:
        spans.append(Span(row, order, offset, row.length, one.tokens, one.neighbors))
        offset += len(one.tokens)
    return tuple(spans)


def adjacent_slots(singles: Sequence[Span]) -> list[Sequence[Span]]:
    """Cut spans of one token, in the order of slots, into groups of consecutive tokens and slots."""
    cuts = [
        place
        for place, (one, following) in enumerate(pairwise(singles), start=1)
        if following.row.slot != one.row.slot + 1 or following.offset != one.offset + 1
    ]
    return [singles[first:last] for first, last in pairwise([0, *cuts, len(singles)]) if last > first]


def _decode_group(spans: Sequence[Span], device: torch.device) -> DecodeGroup:
    lengths = [span.start + 1 for span in spans]
    longest, mask = max(lengths), None
    if min(lengths) < longest:
        lengths_B1 = torch.tensor(lengths, device=device)[:, None]
        mask = (torch.arange(longest, device=device) < lengths_B1)[:, None, None]
    return DecodeGroup(spans[0].offset, spans[0].row.slot, len(spans), longest, mask)


def _prefill(span: Span, device: torch.device) -> Prefill:
    keys, mask = span.start + span.count, None
    if span.start:
        own = torch.arange(span.start, keys, device=device)[:, None]
        mask = torch.arange(keys, device=device) <= own
    return Prefill(span.offset, span.count, span.row.slot, keys, mask, causal=mask is None)
