"""One call's new tokens, packed end to end, and which cache entries each of them attends to.

Rows with one new token come first, ordered by slot, then rows with several. So the rows of a running batch are
consecutive slots, and one attention call serves them all; a prompt has an attention call of its own.
"""

# Dims in this file.
#   P packed tokens   B slots of a decode group   T tokens of a cache

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import torch
from torch import Tensor

from retro.generate.decoding.knowledge import KnowledgeGroup, knowledge_groups
from retro.generate.decoding.rows import Row, Rows, Segment
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
    shared: int
    """How many of those are in segments."""
    tokens: Sequence[int]
    neighbors: Mapping[int, Neighbors]

    @property
    def count(self) -> int:
        """How many tokens are new."""
        return len(self.tokens)

    @property
    def first_entry(self) -> int:
        """Where the keys and values of its first token go, in the row's slot."""
        return self.start - self.shared

    @property
    def entries(self) -> int:
        """Tokens that the slot has after this call."""
        return self.start - self.shared + self.count


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
    segments: tuple[Segment, ...] = ()
    """What all these rows attend to before their own entries."""


@dataclass(frozen=True)
class Prefill:
    """Several new tokens of one row, and their attention over its cache."""

    offset: int
    count: int
    slot: int
    keys: int
    mask: Tensor | None
    """True where a token may attend to an entry, broadcastable to [1, 1, count, keys], those of segments first."""
    causal: bool = False
    """Whether the cache holds these tokens alone, and each attends up to itself."""
    segments: tuple[Segment, ...] = ()


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
    entry_P: Tensor
    """Where the keys and values of a token go, in the row's slot."""
    decodes: tuple[DecodeGroup, ...]
    prefills: tuple[Prefill, ...]
    knowledge: tuple[KnowledgeGroup, ...] = ()
    """Which of the tokens attend to which documents."""

    @property
    def longest(self) -> int:
        """Entries that slots need."""
        return max(span.entries for span in self.spans)


def plan_batch(extensions: Sequence[Extension], rows: Rows, device: torch.device) -> Batch:
    """Pack the new tokens of some rows."""
    spans = _spans(extensions, rows)
    singles = sum(span.count == 1 for span in spans)
    numbers = torch.tensor(
        [
            [token for span in spans for token in span.tokens],
            [span.start + place for span in spans for place in range(span.count)],
            [span.row.slot for span in spans for _ in span.tokens],
            [span.first_entry + place for span in spans for place in range(span.count)],
        ],
        device=device,
    )
    return Batch(
        spans=spans,
        singles=singles,
        tokens_P=numbers[0],
        position_P=numbers[1],
        slot_P=numbers[2],
        entry_P=numbers[3],
        decodes=tuple(
            _decode_group(list(group), device)
            for adjacent in adjacent_slots(spans[:singles])
            for _, group in groupby(adjacent, key=lambda span: span.row.segments)
        ),
        prefills=tuple(_prefill(span, device) for span in spans[singles:]),
        knowledge=knowledge_groups([(span.row.knowledge, span.offset, span.count) for span in spans]),
    )


def _spans(extensions: Sequence[Extension], rows: Rows) -> tuple[Span, ...]:
    found = [(one, order, rows[one.row]) for order, one in enumerate(extensions)]
    found.sort(key=lambda entry: (len(entry[0].tokens) > 1, entry[2].slot))
    spans, offset = [], 0
    for one, order, row in found:
        spans.append(Span(row, order, offset, row.length, row.shared, one.tokens, one.neighbors))
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
    lengths = [span.entries for span in spans]
    longest, mask = max(lengths), None
    if min(lengths) < longest:
        lengths_B1 = torch.tensor(lengths, device=device)[:, None]
        mask = (torch.arange(longest, device=device) < lengths_B1)[:, None, None]
    return DecodeGroup(spans[0].offset, spans[0].row.slot, len(spans), longest, mask, spans[0].row.segments)


def _prefill(span: Span, device: torch.device) -> Prefill:
    mask = None
    if span.start:
        position_P = torch.arange(span.start + span.count, device=device)
        mask = position_P <= position_P[span.start :, None]
    return Prefill(span.offset, span.count, span.row.slot, span.entries, mask, mask is None, span.row.segments)
