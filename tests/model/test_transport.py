"""What travels between stages comes apart as it was put together."""

from __future__ import annotations

import torch

from retro.model.transport import pack, transport_rows, unpack


def test_each_row_stays_with_its_sequence() -> None:
    # 3 tokens; 2 sequences of 2 neighbors of 4 tokens; width 1. The number says sequence and neighbor.
    hidden = torch.tensor([[0.0, 1.0]] * 3)[..., None]
    context = torch.tensor([[0.1, 0.2, 1.1, 1.2]] * 4)[..., None]
    packed = pack(hidden, context)
    assert packed.shape == (3 + 4 * 2, 2, 1)
    assert (packed[:, 0] < 1).all()
    assert (packed[:, 1] >= 1).all()
    again, neighbors = unpack(packed, 2, 4)
    assert neighbors is not None
    assert torch.equal(again, hidden)
    assert torch.equal(neighbors, context)


def test_without_neighbors_the_states_travel_as_they_are() -> None:
    hidden = torch.zeros(3, 2, 1)
    assert pack(hidden, None) is hidden
    assert unpack(hidden, 0, 4) == (hidden, None)


def test_the_published_shape_sends_five_times_a_gpt() -> None:
    assert transport_rows(4096, 64, 2, 128) == 5 * 4096
    assert transport_rows(4096, 0, 2, 128) == 4096
