"""The open sequences of a decoder.

Each has a number for the caller and a slot in the caches. Open sequences fill the first slots without a hole, so that
one attention call serves them all: when one closes, the last is moved to its slot.

A fork begins with all that another sequence has. Keys and values of the common tokens stand once, in a segment that
both name; each has in its slot only what it read after that. The segment is freed with the last sequence that names it.
"""

# Dims in this file.
#   G query groups on this rank   T tokens   D head width

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from retro.generate.request import Decoder, Extension, Knowledge, Neighbors


@dataclass(frozen=True, eq=False)
class Segment:
    """Keys and values of some tokens that several sequences share: [G, T, D] for each layer, in place of a slot's."""

    keys: list[Tensor]
    values: list[Tensor]
    length: int


@dataclass
class Row:
    """One sequence, beside its caches."""

    slot: int
    length: int = 0
    """Tokens read, shared ones included."""
    segments: tuple[Segment, ...] = ()
    """What it shares with others: its first tokens."""
    shared: int = 0
    """Tokens of the segments."""
    ended: int | None = None
    """Position of the token that ended the last chunk with neighbors; None where there are no neighbors in view."""
    neighbors: int = 0
    """Neighbors of that chunk."""
    padded: bool = False
    """Whether some of their tokens are padding."""
    adapter: str = ""
    """What its tokens are read with."""
    knowledge: Knowledge | None = None
    """Documents that they attend to."""

    @property
    def own(self) -> int:
        """Tokens whose keys and values are in the slot."""
        return self.length - self.shared

    def share(self, segment: Segment) -> None:
        """Have its own tokens in a segment from now on."""
        self.segments, self.shared = (*self.segments, segment), self.length


@dataclass(frozen=True)
class SlotCopy:
    """The contents of one slot, to be copied to another."""

    source: int
    target: int
    tokens: int
    """Entries of keys and values."""


class Rows:
    """Open sequences, by number."""

    def __init__(self) -> None:
        self._rows: dict[int, Row] = {}
        self._by_slot: list[int] = []
        self._next = 0

    def __len__(self) -> int:
        return len(self._by_slot)

    def __getitem__(self, number: int) -> Row:
        row = self._rows.get(number)
        if row is None:
            raise ValueError(f"there is no open sequence {number}")
        return row

    def open(self, adapter: str = "", knowledge: Knowledge | None = None) -> int:
        """A new sequence, in the slot after the last."""
        number, self._next = self._next, self._next + 1
        self._rows[number] = Row(slot=len(self._by_slot), adapter=adapter, knowledge=knowledge)
        self._by_slot.append(number)
        return number

    def fork(self, number: int) -> tuple[int, SlotCopy]:
        """A new sequence that begins as a copy of another.

        Raises:
            ValueError: The other is not open.
        """
        row, new = self[number], self.open()
        self._rows[new] = replace(row, slot=self._rows[new].slot)
        return new, SlotCopy(source=row.slot, target=self._rows[new].slot, tokens=row.own)

    @property
    def longest(self) -> int:
        """Most tokens that a sequence has in its slot."""
        return max((row.own for row in self._rows.values()), default=0)

    @property
    def segments(self) -> set[Segment]:
        """All that is shared."""
        return {segment for row in self._rows.values() for segment in row.segments}

    def close(self, number: int) -> SlotCopy | None:
        """Forget a sequence; None where no other has to be moved.

        Raises:
            ValueError: It is not open.
        """
        slot, last = self[number].slot, self._by_slot.pop()
        del self._rows[number]
        if last == number:
            return None
        copy = SlotCopy(source=len(self._by_slot), target=slot, tokens=self._rows[last].own)
        self._by_slot[slot], self._rows[last].slot = last, slot
        return copy


def require_extensions(extensions: Sequence[Extension], rows: Rows, decoder: Decoder) -> None:
    """Check a call before any cache is touched.

    Raises:
        ValueError: A row is not open or comes twice, brings no token, an unknown one or more than its sequence can
            hold, or neighbors that do not fit the model.
    """
    if not extensions:
        raise ValueError("a call needs at least one extension")
    if len({one.row for one in extensions}) != len(extensions):
        raise ValueError("a sequence can be extended once in a call")
    for one in extensions:
        length = rows[one.row].length + len(one.tokens)
        if not len(one.tokens):
            raise ValueError(f"sequence {one.row} is given no token")
        if length > decoder.sequence_length:
            raise ValueError(f"sequence {one.row} would have {length} tokens, the model has {decoder.sequence_length}")
        if min(one.tokens) < 0 or max(one.tokens) >= decoder.vocabulary:
            raise ValueError(f"sequence {one.row} is given a token outside the vocabulary of {decoder.vocabulary}")
        for place, neighbors in one.neighbors.items():
            _require_neighbors(one, place, neighbors, decoder)


def _require_neighbors(one: Extension, place: int, neighbors: Neighbors, decoder: Decoder) -> None:
    if not decoder.reads_neighbors:
        raise ValueError("the model is a GPT: it has no encoder that could read neighbors")
    if not 0 <= place < len(one.tokens):
        raise ValueError(f"neighbors are given at token {place} of {len(one.tokens)} of sequence {one.row}")
    shape = neighbors.tokens_KR.shape
    if len(shape) != 2 or shape[1] != decoder.retrieved_length or not shape[0]:
        raise ValueError(f"neighbors have shape {shape}, needed (K, {decoder.retrieved_length})")
    if neighbors.mask_KR.shape != shape:
        raise ValueError(f"neighbors of shape {shape} have a mask of shape {neighbors.mask_KR.shape}")
    if neighbors.tokens_KR.min() < 0 or neighbors.tokens_KR.max() >= decoder.vocabulary:
        raise ValueError(f"neighbors have a token outside the vocabulary of {decoder.vocabulary}")
