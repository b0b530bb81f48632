"""Tensors made of row ranges of others, by hand: two heads of width one, whose queries, keys and values are apart."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from retro.model.convert.hf_layouts import Layout, Piece, assemble, gather, invert, rows_of

STORED = {"q": torch.tensor([[10.0, 11.0], [20.0, 21.0]]), "k": torch.tensor([[12.0, 13.0], [22.0, 23.0]])}
MIXED = (Piece("q", 0, 1), Piece("k", 0, 1), Piece("q", 1, 2), Piece("k", 1, 2))


class Recorder:
    """Reads from STORED and remembers what was asked for."""

    def __init__(self, stored: dict[str, Tensor]) -> None:
        self.stored, self.asked = stored, list[tuple[str, tuple[slice, ...]]]()

    def read(self, name: str, part: tuple[slice, ...]) -> Tensor:
        self.asked.append((name, part))
        return self.stored[name][part]


def test_the_whole_is_its_pieces_in_order() -> None:
    whole = gather(MIXED, (slice(0, 4), slice(0, 2)), Recorder(STORED).read)
    assert whole.tolist() == [[10, 11], [12, 13], [20, 21], [22, 23]]
    assert rows_of(MIXED) == 4


def test_a_part_reads_only_the_pieces_it_touches() -> None:
    recorder = Recorder(STORED)
    assert gather(MIXED, (slice(1, 3), slice(1, 2)), recorder.read).tolist() == [[13], [21]]
    assert recorder.asked == [("k", (slice(0, 1), slice(1, 2))), ("q", (slice(1, 2), slice(1, 2)))]


def test_columns_of_a_transposed_tensor_are_our_rows() -> None:
    recorder = Recorder({"c": torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])})
    pieces = (Piece("c", 2, 3, transposed=True), Piece("c", 0, 2, transposed=True))
    assert gather(pieces, (slice(0, 2), slice(0, 2)), recorder.read).tolist() == [[3, 6], [1, 4]]
    assert recorder.asked == [("c", (slice(0, 2), slice(2, 3))), ("c", (slice(0, 2), slice(0, 1)))]


def test_a_bias_has_no_columns_to_transpose() -> None:
    recorder = Recorder({"b": torch.tensor([1.0, 2.0, 3.0])})
    assert gather((Piece("b", 1, 3, transposed=True),), (slice(0, 2),), recorder.read).tolist() == [2, 3]


def test_the_way_back_gives_what_was_stored() -> None:
    stored = STORED | {"c": torch.arange(6.0).reshape(2, 3)}
    layout: Layout = {"mixed": MIXED, "turned": (Piece("c", 1, 3, transposed=True), Piece("c", 0, 1, transposed=True))}
    ours = {
        "mixed": gather(layout["mixed"], (slice(0, 4), slice(0, 2)), Recorder(stored).read),
        "turned": gather(layout["turned"], (slice(0, 3), slice(0, 2)), Recorder(stored).read),
    }
    parts = invert(layout)
    assert parts.keys() == stored.keys()
    assert all(torch.equal(assemble(parts[name], ours), stored[name]) for name in stored)


@pytest.mark.parametrize("pieces", [(Piece("q", 1, 2),), (Piece("q", 0, 1), Piece("q", 2, 3)), (MIXED[0], MIXED[0])])
def test_pieces_with_gaps_or_overlaps_are_a_mistake(pieces: tuple[Piece, ...]) -> None:
    with pytest.raises(ValueError, match="q: its pieces leave gaps or overlap"):
        invert({"weight": pieces})
