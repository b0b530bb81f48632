"""From the states of a text's tokens to one vector."""

# Dims in this file. B texts of a batch   T tokens of its longest text   D dimension

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def text_positions(
    ids_BT: NDArray[np.int64], mask_BT: NDArray[np.bool_], cls_id: int | None, sep_id: int | None
) -> NDArray[np.bool_]:
    """[B, T] True on the tokens to average: `mask_BT` without a leading [CLS] and a trailing [SEP]."""
    counted_BT = mask_BT.copy()
    if cls_id is None or sep_id is None:
        return counted_BT
    rows_B, last_B = np.arange(len(ids_BT)), np.maximum(mask_BT.sum(axis=1) - 1, 0)
    framed_B = (ids_BT[:, 0] == cls_id) & (ids_BT[rows_B, last_B] == sep_id)
    counted_BT[framed_B, 0] = False
    counted_BT[rows_B[framed_B], last_B[framed_B]] = False
    return counted_BT


def pooled_positions(pooling: str, counted_BT: NDArray[np.bool_], mask_BT: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """[B, T] True on the tokens whose states make the vector.

    Args:
        pooling: A setting of `EmbedderConfig.pooling`.
        counted_BT: [B, T] True on tokens of the text, without its frame.
        mask_BT: [B, T] True on tokens, the frame included; each row's begin it.
    """
    if pooling == "auto":
        return counted_BT
    if pooling in ("mean", "max"):
        return mask_BT
    places_T = np.arange(mask_BT.shape[1])
    wanted_B = np.zeros(len(mask_BT), dtype=np.int64) if pooling == "cls" else mask_BT.sum(axis=1) - 1
    at_BT: NDArray[np.bool_] = mask_BT & (places_T == wanted_B[:, None])
    return at_BT


def pooled(states_BTD: Any, weights_BT: Any, *, highest: bool) -> Any:
    """[B, D] the mean of the states at the places that are True, or value by value the highest; 0 without any."""
    import torch

    chosen_BT1 = weights_BT[..., None]
    if highest:
        found_BD = torch.where(chosen_BT1, states_BTD, -torch.inf).amax(dim=1)
        return torch.where(weights_BT.any(dim=1, keepdim=True), found_BD, 0.0)
    sums_BD = torch.where(chosen_BT1, states_BTD, 0.0).sum(dim=1)
    return sums_BD / weights_BT.sum(dim=1, keepdim=True).clamp(min=1)
