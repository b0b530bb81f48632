"""Which passages stand before a text: what a search found for the tokens before it, or for another document's."""

# Dims in this file.
#   T targets   C candidates   P passages of a prompt   W tokens of a query

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from retro.common.progress import Progress
from retro.corpus.reader import TokenStream
from retro.db.reader import ChunkDatabase
from retro.index.embeddings import texts_of
from retro.neighbors.document_map import keep_first, own_document_mask, positions_in_stream
from retro.neighbors.reader import Neighbors
from retro.pretrain.in_context_data import Targets

if TYPE_CHECKING:
    from retro.index.search import TextSearch

Int64 = NDArray[np.int64]
Shown = tuple[Int64, Int64]
"""[T] first and last document, as positions in the stream, that a prompt shows or asks for."""

_QUERIES_AT_ONCE = 1_000
# Candidates asked of the index beyond those that are wanted: some are the text's own.
_SPARE = 10


def shown_documents(streams: Sequence[TokenStream], targets: Targets, before: int) -> Shown:
    """The documents of which a prompt shows or asks for something.

    Args:
        streams: One for each source.
        targets: What is scored.
        before: Tokens before a target that are shown or searched with, at most.
    """
    first_T, last_T = np.empty_like(targets.start_T), np.empty_like(targets.start_T)
    for source, stream in enumerate(streams):
        here = targets.source_T == source
        start = targets.start_T[here]
        first_T[here] = stream.documents_at(np.maximum(targets.begin_T[here], start - before))
        last_T[here] = stream.documents_at(start + targets.count_T[here] - 1)
    return first_T, last_T


class OtherDocuments:
    """Drops candidates from documents that the prompt shows or asks for."""

    def __init__(
        self, database: ChunkDatabase, streams: Sequence[TokenStream], targets: Targets, shown: Shown, passages: int
    ) -> None:
        """Prepare.

        Args:
            database: The candidates' one.
            streams: One for each source.
            targets: What is scored.
            shown: The documents of each prompt.
            passages: P, kept for each.
        """
        self.database, self.targets, self.shown, self.passages = database, targets, shown, passages
        self._positions = [positions_in_stream(database, stream) for stream in streams]

    def keep(self, numbers: Int64, ids_TC: Int64) -> Int64:
        """[T, P] the first of them that stay; -1 for none.

        Args:
            numbers: [T] of the targets.
            ids_TC: Rows of the database, best first, -1 for none.
        """
        rows_TC = np.maximum(ids_TC, 0)
        source_TC, document_TC = (self.database.columns[name][rows_TC] for name in ("source", "document"))
        position_TC = np.full(ids_TC.shape, -1, dtype=np.int64)
        for source, positions in enumerate(self._positions):
            mine_T = self.targets.source_T[numbers] == source
            for theirs, position_D in positions.items():
                same_TC = (source_TC == theirs) & mine_T[:, None]
                position_TC[same_TC] = position_D[document_TC[same_TC]]
        first_T, last_T = self.shown
        own_TC = own_document_mask(position_TC, first_T[numbers], last_T[numbers])
        return keep_first(ids_TC, np.zeros(ids_TC.shape, dtype=np.float32), own_TC, self.passages).ids_QK


def of_neighbors(neighbors: Neighbors, split: int, targets: Targets, chunk_length: int) -> Int64:
    """[T, C] all neighbors that were saved for the chunk before each target, which must begin with a chunk."""
    ids_TC = np.full((len(targets), neighbors.saved), -1, dtype=np.int64)
    for source in np.unique(targets.source_T).tolist():
        here = targets.source_T == source
        chunks = targets.start_T[here] // chunk_length - 1
        ids_TC[here] = neighbors.of(split, source, chunks, neighbors.saved)
    return ids_TC


def of_search(
    search: TextSearch, streams: Sequence[TokenStream], targets: Targets, query_length: int, others: OtherDocuments
) -> Int64:
    """[T, P] what a search finds for the tokens before each target, searched deeper where too few are left.

    Args:
        search: Of the database.
        streams: One for each source.
        targets: What is scored.
        query_length: W, at most.
        others: Which of the candidates stay.
    """
    found = [np.empty((0, others.passages), dtype=np.int64)]
    with Progress(len(targets), what="perplexity in context", unit="searches") as bar:
        for first in range(0, len(targets), _QUERIES_AT_ONCE):
            numbers = np.arange(first, min(first + _QUERIES_AT_ONCE, len(targets)))
            texts = query_texts(search.db, streams, targets.take(numbers), query_length)
            found.append(_search_deeper(search, texts, numbers, others))
            bar.advance(len(numbers))
    return np.concatenate(found)


def _search_deeper(search: TextSearch, texts: list[str], numbers: Int64, others: OtherDocuments) -> Int64:
    queries, rows = search.prepare(texts), search.db.retrievable
    ids = np.full((len(numbers), others.passages), -1, dtype=np.int64)
    left, depth = np.flatnonzero(queries.has_text_Q), others.passages + _SPARE
    while len(left) and len(rows):
        candidates = search.search(queries.take(left), min(depth, len(rows)), rows).ids_QC
        ids[left] = others.keep(numbers[left], candidates)
        # A full list of candidates means that the index has more to give.
        more = (ids[left] < 0).any(axis=1) & (candidates[:, -1] >= 0) & (depth < len(rows))
        left, depth = left[more], 2 * depth
    return ids


def query_texts(
    database: ChunkDatabase, streams: Sequence[TokenStream], targets: Targets, query_length: int
) -> list[str]:
    """The text before each target that is searched with."""
    tokens_TW = np.zeros((len(targets), query_length), dtype=np.int32)
    count_T = np.minimum(query_length, targets.start_T - targets.begin_T)
    for row, (source, start, count) in enumerate(
        zip(targets.source_T.tolist(), targets.start_T.tolist(), count_T.tolist(), strict=True)
    ):
        tokens_TW[row, :count] = streams[source].tokens([start - count], count)[0]
    return texts_of(database.corpus.tokenizer, tokens_TW, np.arange(query_length) < count_T[:, None])


def shuffled(ids_TP: Int64, targets: Targets, shown: Shown, seed: int) -> tuple[Int64, int]:
    """Passages of other targets, each of a document that the prompt itself shows nothing of.

    Args:
        ids_TP: What was found.
        targets: What is scored.
        shown: Documents of each prompt.
        seed: Of the order.

    Returns:
        [T, P] passages, and how many targets got those of a document of their own, there being no other.
    """
    first_T, last_T = shown
    random = np.random.default_rng(seed)
    donor_T = random.permutation(len(targets))
    same = _overlaps(targets, shown, donor_T)
    # Targets stand in the order of documents: those that overlap a prompt are in one run around it.
    key_low, key_high = _key(targets.source_T, first_T), _key(targets.source_T, last_T)
    for row in np.flatnonzero(same).tolist():
        low = int(np.searchsorted(key_high, key_low[row], side="left"))
        high = int(np.searchsorted(key_low, key_high[row], side="right"))
        others = len(targets) - (high - low)
        if others:
            place = int(random.integers(others))
            donor_T[row] = place if place < low else place + high - low
    return ids_TP[donor_T], int(_overlaps(targets, shown, donor_T).sum())


def _key(source_T: Int64, document_T: Int64) -> Int64:
    """Ascending along the targets."""
    key: Int64 = (source_T << 40) + document_T
    return key


def _overlaps(targets: Targets, shown: Shown, donor_T: Int64) -> NDArray[np.bool_]:
    """[T] whether a prompt and that of its donor show a document in common."""
    (first_T, last_T), source_T = shown, targets.source_T
    same: NDArray[np.bool_] = (
        (source_T == source_T[donor_T]) & (first_T <= last_T[donor_T]) & (first_T[donor_T] <= last_T)
    )
    return same
