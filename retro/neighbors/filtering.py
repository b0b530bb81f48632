"""Take a chunk's own documents out of what was found for it: arithmetic on arrays, no files."""

# Dims in this file. Q queries   C candidates   K neighbors kept   D documents of a source

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]


class Kept(NamedTuple):
    """The neighbors that stay."""

    ids_QK: Int64
    """[Q, K] rows, best first, then -1."""
    scores_QK: NDArray[np.float32]
    """[Q, K] scores, then -inf."""


def stream_positions(documents: Int64, total: int) -> Int64:
    """Where each document of a source stands in a stream.

    Args:
        documents: Document numbers in stream order.
        total: D, documents of the source.

    Returns:
        [D] positions; -1 for documents that the stream does not have.
    """
    positions_D = np.full(total, -1, dtype=np.int64)
    positions_D[documents] = np.arange(len(documents))
    return positions_D


def own_document_mask(position_QC: Int64, first_Q: Int64, last_Q: Int64) -> Bool:
    """Mark candidates from documents that the model reads while it sees the query's neighbors.

    They would show it the very text it is to predict. An approximate index need not rank them first, nor are they
    few, so every rank is looked at.

    Args:
        position_QC: [Q, C] stream position of each candidate's document, -1 for documents of other streams.
        first_Q: [Q] stream position of the first such document.
        last_Q: [Q] and of the last, inclusive.

    Returns:
        [Q, C] True where the candidate must go.
    """
    own_QC: Bool = (position_QC >= first_Q[:, None]) & (position_QC <= last_Q[:, None])
    return own_QC


def keep_first(ids_QC: Int64, scores_QC: NDArray[np.float32], dropped_QC: Bool, saved: int) -> Kept:
    """The first `saved` candidates that are neither dropped nor -1, in their order.

    Args:
        ids_QC: [Q, C] rows, best first; -1 is none.
        scores_QC: [Q, C] their scores.
        dropped_QC: [Q, C] True where a candidate must go.
        saved: K, columns of the result; C may be smaller.
    """
    good_QC = (ids_QC >= 0) & ~dropped_QC
    # Stable: good candidates move to the front and stay in order.
    order_QK = np.argsort(~good_QC, axis=1, kind="stable")[:, :saved]
    good_QK = np.take_along_axis(good_QC, order_QK, axis=1)
    shape = (len(ids_QC), saved)
    ids_QK, scores_QK = np.full(shape, -1, dtype=np.int64), np.full(shape, -np.inf, dtype=np.float32)
    width = order_QK.shape[1]
    ids_QK[:, :width] = np.where(good_QK, np.take_along_axis(ids_QC, order_QK, axis=1), -1)
    scores_QK[:, :width] = np.where(good_QK, np.take_along_axis(scores_QC, order_QK, axis=1), -np.inf)
    return Kept(ids_QK, scores_QK)
