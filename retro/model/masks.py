"""What cross-attention may read, packed in the one mask tensor that megatron-core's layers pass along.

The columns are the R tokens of a neighbor followed by the M tokens of its query chunk: decoder tokens read the
former, the encoder also reads the latter.
"""

# Dims: B, L, K, R, M as in attention.py.

from __future__ import annotations

import torch
from torch import Tensor


def pack_masks(neighbor_BLKR: Tensor, token_mask_BS: Tensor | None, chunk_length: int) -> Tensor:
    """Join the neighbors' mask with the mask of their query chunks.

    Args:
        neighbor_BLKR: True where a neighbor token is real.
        token_mask_BS: True where a sequence token is real; None when all are.
        chunk_length: M.

    Returns:
        [B, L, K, R + M] bool.
    """
    batch, chunks, neighbors, _ = neighbor_BLKR.shape
    if token_mask_BS is None:
        chunk_BLM = torch.ones(batch, chunks, chunk_length, dtype=torch.bool, device=neighbor_BLKR.device)
    else:
        chunk_BLM = token_mask_BS[:, : chunks * chunk_length].unflatten(1, (chunks, chunk_length))
    chunk_BLKM = chunk_BLM[:, :, None, :].expand(-1, -1, neighbors, -1)
    return torch.cat((neighbor_BLKR, chunk_BLKM), dim=-1)


def unpack_masks(packed: Tensor, chunk_length: int) -> tuple[Tensor, Tensor]:
    """Split what `pack_masks` joined.

    Returns:
        [B, L, K, R] neighbor mask and [B, L, M] chunk mask.
    """
    return packed[..., :-chunk_length], packed[:, :, 0, -chunk_length:]
