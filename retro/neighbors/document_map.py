"""Which documents of a database are those of a stream, and taking them out of what was found."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from retro.corpus.reader import Corpus, TokenStream
from retro.db.reader import ChunkDatabase

# Dims in this file. Q queries   C candidates   K neighbors kept   D documents of a source


Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]


class FilteredNeighbors(NamedTuple):
    """The neighbors that stay."""

    ids_QK: Int64
    """[Q, K] rows, best first, then -1."""
    scores_QK: NDArray[np.float32]
    """[Q, K] scores, then -inf."""


def stream_positions(documents: Int64, total: int) -> Int64:
    """Where each document of a source is in a stream.

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


def keep_first(ids_QC: Int64, scores_QC: NDArray[np.float32], dropped_QC: Bool, saved: int) -> FilteredNeighbors:
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
    return FilteredNeighbors(ids_QK, scores_QK)


# Dims in this file. D documents of a source


def positions_in_stream(db: ChunkDatabase, stream: TokenStream) -> dict[int, Int64]:
    """Where the documents of a database stand in a stream.

    In the stream's own corpus, documents are the same when their numbers are. In any other, such as what was added to
    an updated database or another run's, a document is the stream's when source and id are: the new text of a replaced
    document is nearly the old one, and would show the model what it is to predict.

    Args:
        db: The database that is searched.
        stream: The text that neighbors are found for.

    Returns:
        For the number of each source of the database that has the stream's source name: [D] stream positions, -1 for
        documents that the stream does not have.
    """
    own = stream.corpus
    name = own.sources[stream.source]
    here_D = stream_positions(stream.documents, own.token_file(stream.source).documents)
    found: dict[int, Int64] = {}
    first = 0
    for part in db.parts or (db,):
        for local, other in enumerate(part.corpus.sources):
            if other == name:
                same = part.corpus.manifest.fingerprint == own.manifest.fingerprint
                found[first + local] = here_D if same else _by_id(part.corpus, local, stream, here_D)
        first += len(part.corpus.sources)
    return found


def _by_id(corpus: Corpus, source: int, stream: TokenStream, here_D: Int64) -> Int64:
    """[documents of the other source] positions; of several documents in the stream with one id, the last one's."""
    numbers: dict[str, list[int]] = {}
    for number, identifier in enumerate(corpus.document_ids(source)):
        numbers.setdefault(identifier, []).append(number)
    positions_D = np.full(corpus.token_file(source).documents, -1, dtype=np.int64)
    for position, identifier in zip(here_D.tolist(), stream.corpus.document_ids(stream.source), strict=True):
        for number in numbers.get(identifier, ()):
            positions_D[number] = max(position, positions_D[number])
    return positions_D
