"""What travels between pipeline stages: decoder states and neighbors, packed in one tensor along the sequence.

megatron-core's schedules send one tensor of one shape between all stages. Packed, it has S + K R L rows for a batch
of B sequences: 1 + K R / M times a GPT's, 5 times with two neighbors of two chunks. The first stage packs the
embedded neighbors; the stage with the first cross-attention replaces them by the encoded ones.
"""

# Dims in this file.
#   S tokens in the sequence   B sequences   H hidden size   L chunks   K neighbors of a chunk   R tokens of a neighbor
#   s and r: S and R, or this rank's share of them under sequence parallelism

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from retro.mcore.layers import TransformerLayer


def transport_rows(tokens: int, chunks: int, neighbors: int, retrieved_length: int) -> int:
    """Rows of the tensor that travels, before sequence parallelism shares them out.

    Args:
        tokens: S.
        chunks: L; 0 where no neighbors travel.
        neighbors: K.
        retrieved_length: R.
    """
    return tokens + chunks * neighbors * retrieved_length


def pack(hidden_states: Tensor, context: Tensor | None) -> Tensor:
    """Join [s, B, H] decoder states and [r, B L K, H] neighbors to [s + r L K, B, H]."""
    if context is None:
        return hidden_states
    batch = hidden_states.size(1)
    rows = context.unflatten(1, (batch, -1)).transpose(1, 2).flatten(0, 1)
    return torch.cat((hidden_states, rows))


def unpack(packed: Tensor, of_a_sequence: int, length: int) -> tuple[Tensor, Tensor | None]:
    """Split what `pack` joined.

    Args:
        packed: [s + r L K, B, H].
        of_a_sequence: L K, the neighbors of a sequence; 0 when none travel.
        length: r.

    Returns:
        [s, B, H] decoder states and [r, B L K, H] neighbors.
    """
    if of_a_sequence == 0:
        return packed, None
    hidden_states, rows = packed.split((packed.size(0) - length * of_a_sequence, length * of_a_sequence))
    return hidden_states, rows.unflatten(0, (length, of_a_sequence)).transpose(1, 2).flatten(1, 2)


class LastLayerOfStage(TransformerLayer):
    """A transformer layer whose output is what travels: megatron-core's block hands on one tensor only."""

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        """As in any layer, with the neighbors packed into the hidden states."""
        hidden_states, context = super().forward(*args, **kwargs)
        return pack(hidden_states, context), None
