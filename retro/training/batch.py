"""What every source of training data hands to the training loop."""

# Dims in this file.
#   B sequences of a micro batch   S tokens of a sequence   L chunks of a sequence, S // M
#   K neighbors of a chunk         R tokens of a neighbor

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Tokens: TypeAlias = NDArray[np.signedinteger[Any]]
"""int64, or int32 as token files are read: half the bytes to copy and to send; `DataLoader` widens them there."""


@dataclass(frozen=True)
class Batch:
    """One micro batch as arrays."""

    tokens_BS: Tokens
    labels_BS: Tokens
    """Token t is asked for label t."""
    loss_mask_BS: NDArray[np.float32]
    """1 where a label counts, else 0."""
    neighbors_BLKR: Tokens | None
    """Neighbors of chunk u are seen by the last token of chunk u and the first M - 1 tokens of chunk u +
    1."""
    neighbor_mask_BLKR: NDArray[np.bool_] | None
    """True where a neighbor token is real."""
    token_mask_BS: NDArray[np.bool_] | None
    """True where a token is real; None: all are, or `segments_BS` says so."""
    segments_BS: NDArray[np.signedinteger[Any]] | None = None
    """Where several samples stand in a row: which of them a token belongs to, 1 and up, 0 on padding; neighbors
    of a chunk belong to the sample of its last token. None: one sample."""
    further: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """What a loss of one's own reads beside the tokens, by name; the first dim of each is B."""


@dataclass(frozen=True)
class BatchSpec:
    """What all batches of a source have in common."""

    sequence_length: int | None
    """S of every batch, without left padding; None where batches differ and may be padded on the left."""
    neighbors: int
    """Neighbors of each chunk, K; 0 where batches carry none."""


class BatchSource(Protocol):
    """Anything that gives training samples by number."""

    @property
    def form(self) -> BatchSpec:
        """What all its batches have in common."""

    def fetch(self, sample_numbers: NDArray[np.int64]) -> Batch:
        """The samples of these numbers.

        Numbers count up for ever; the source turns them into epochs with its own seed, and the same numbers
        always give the same batch. Where all are of one length, a sample does not depend on those it comes with.
        Called from a thread, though never from two at a time.
        """
