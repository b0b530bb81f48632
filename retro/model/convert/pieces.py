"""One tensor made of row ranges of others: the whole difference between two layouts of the same weights.

Queries, keys and values are one matrix here, group by group, and three elsewhere; gate and up projection likewise;
GPT-2 stores its matrices transposed. Written as pieces, one table serves both directions, and a rank reads only
the pieces that its own rows touch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

ReadStored = Callable[[str, tuple[slice, ...]], Tensor]
"""From a stored tensor's name and a slice of each of its axes to that part of it."""


@dataclass(frozen=True)
class Piece:
    """Rows `start` to `stop` of a stored tensor; its columns instead where it is stored transposed."""

    tensor: str
    start: int
    stop: int
    transposed: bool = False

    @property
    def rows(self) -> int:
        """How many."""
        return self.stop - self.start


Layout = dict[str, tuple[Piece, ...]]
"""The pieces of each of our weights, in their order."""


def rows_of(pieces: Sequence[Piece]) -> int:
    """Rows of the tensor that the pieces make."""
    return sum(piece.rows for piece in pieces)


def gather(pieces: Sequence[Piece], slices: tuple[slice, ...], read: ReadStored) -> Tensor:
    """Read a part of a tensor from its pieces.

    Args:
        pieces: What the tensor is made of.
        slices: The part, one slice an axis, with start and stop.
        read: Reads a part of a stored tensor.
    """
    rows, rest = slices[0], slices[1:]
    found, first = [], 0
    for piece in pieces:
        start, stop = max(rows.start, first), min(rows.stop, first + piece.rows)
        if start < stop:
            own = slice(piece.start + start - first, piece.start + stop - first)
            transposed = piece.transposed and rest
            part = read(piece.tensor, (*rest, own) if transposed else (own, *rest))
            found.append(part.T if transposed else part)
        first += piece.rows
    return torch.cat(found) if len(found) > 1 else found[0]


@dataclass(frozen=True)
class Part:
    """Which rows of one of our weights make a piece of a stored tensor."""

    piece: Piece
    weight: str
    first: int

    def rows(self, weights: Mapping[str, Tensor]) -> Tensor:
        """These rows, without a copy."""
        return weights[self.weight][self.first : self.first + self.piece.rows]


def invert(layout: Layout) -> dict[str, list[Part]]:
    """The way back: the parts of each stored tensor, in the order of its rows."""
    parts: dict[str, list[Part]] = {}
    for weight, pieces in layout.items():
        first = 0
        for piece in pieces:
            parts.setdefault(piece.tensor, []).append(Part(piece, weight, first))
            first += piece.rows
    for tensor, found in parts.items():
        found.sort(key=lambda part: part.piece.start)
        ends = [0, *(part.piece.stop for part in found)]
        if any(part.piece.start != end for part, end in zip(found, ends, strict=False)):
            raise ValueError(f"{tensor}: its pieces leave gaps or overlap")
    return parts


def assemble(parts: Sequence[Part], weights: Mapping[str, Tensor]) -> Tensor:
    """One stored tensor, put together from our weights."""
    joined = torch.cat([part.rows(weights) for part in parts])
    transposed = parts[0].piece.transposed and joined.dim() == 2
    return (joined.T if transposed else joined).contiguous()
