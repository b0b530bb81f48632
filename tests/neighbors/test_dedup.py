"""Filters that compare tokens: pure functions by hand, and the filter over a stream of a small corpus."""

from __future__ import annotations

import numpy as np
import pytest

from retro.corpus.reader import Corpus, TokenStream
from retro.db.reader import ChunkDatabase
from retro.index.searcher import Searcher
from retro.neighbors.config import FilterConfig
from retro.neighbors.dedup import (
    EXACT,
    NEAR,
    OVERLAP,
    CopyFilter,
    Pair,
    exact_duplicates,
    greatest_overlap,
    greatest_similarity,
    text_of_chunks,
)
from retro.neighbors.document_map import stream_positions
from retro.neighbors.query import StreamQueries
from tests.db.road import CHUNK

NOW, NEXT, OTHER = [1, 2, 3, 4], [5, 6, 7, 8], [21, 22, 23, 24]


def pairs(*candidates: list[int]) -> Pair:
    """Chunk u is 1 2 3 4 and chunk u + 1 is 5 6 7 8."""
    query = np.array([NOW + NEXT] * len(candidates), dtype=np.int32)
    return Pair(query, np.array(candidates, dtype=np.int32))


def test_exact_duplicates_are_of_this_chunk_or_of_the_one_to_come() -> None:
    found = exact_duplicates(
        pairs(NOW + OTHER, NEXT + OTHER, OTHER + NEXT, OTHER + NOW, [2, 3, 4, 5, 6, 7, 8, 9], OTHER + OTHER)
    )
    # A continuation that is the text already read gives nothing away; a copy out of step is not an exact one.
    assert found.tolist() == [True, True, True, False, False, False]


def test_short_chunks_are_duplicates_when_they_end_alike_and_missing_ones_are_not() -> None:
    short, missing = [1, 2, -1, -1], [-1] * 4
    query = np.array([short + missing, missing + missing, NOW + missing], dtype=np.int32)
    candidate = np.array([short + missing, missing + missing, OTHER + missing], dtype=np.int32)
    assert exact_duplicates(Pair(query, candidate)).tolist() == [True, False, False]


def test_overlap_is_the_greater_share_of_both_chunks() -> None:
    found = greatest_overlap(pairs([0, 1, 2, 3, 9, 9, 9, 9], [9, 9, 9, 6, 7, 9, 9, 9], [3, 4, 5, 6, 7, 8, 9, 9]))
    assert found.tolist() == [0.75, 0.5, 1.0]


@pytest.mark.parametrize("shift", range(-4, 5))
def test_a_copy_is_found_at_any_shift_up_to_a_chunk(shift: int) -> None:
    text = np.arange(100, 120)
    candidate = text[6 + shift : 14 + shift].astype(np.int32)[None]
    assert greatest_overlap(Pair(text[6:14].astype(np.int32)[None], candidate)).tolist() == [1.0]


def test_similarity_is_that_of_the_most_similar_of_three_pairs() -> None:
    pair = pairs(NOW + OTHER, NEXT + OTHER, OTHER + NEXT, OTHER + NOW)
    assert greatest_similarity(pair.query_PR, pair.candidate_PR, 2).tolist() == [1.0, 1.0, 1.0, 0.0]


@pytest.fixture
def stream(corpus: Corpus) -> TokenStream:
    return TokenStream(corpus, 0, 0, CHUNK)


def test_text_of_the_last_chunk_ends_where_the_stream_ends(stream: TokenStream, corpus: Corpus) -> None:
    last = stream.chunks - 1
    left = stream.length - last * CHUNK
    assert left < 2 * CHUNK
    found = text_of_chunks(stream, np.array([last, 0]), 2, corpus.tokenizer.eod)
    wanted = stream.tokens([last * CHUNK], left)[0]
    assert found[0, :left].tolist() == np.where(wanted == corpus.tokenizer.eod, -1, wanted).tolist()
    assert (found[0, left:] == -1).all()
    assert found[1].tolist()[:3] == stream.tokens([0], 3)[0].tolist()


def own_rows(db: ChunkDatabase, stream: TokenStream) -> np.ndarray:
    """The first two rows of the stream's first document: in step with its chunks 0 and 1."""
    return np.flatnonzero(db.document_key(np.arange(db.rows)) == int(stream.documents[0]))[:2]


def other_rows(db: ChunkDatabase, stream: TokenStream, count: int) -> np.ndarray:
    last = stream.documents[-3:].tolist()
    return np.flatnonzero(np.isin(db.document_key(np.arange(db.rows)), last))[:count]


@pytest.mark.parametrize(
    ("filters", "reason"),
    [
        (FilterConfig(exact_duplicates=True), EXACT),
        (FilterConfig(near_duplicates_above=0.9, shingle=2), NEAR),
        (FilterConfig(overlap_above=0.9), OVERLAP),
        (FilterConfig(exact_duplicates=True, near_duplicates_above=0.9, overlap_above=0.9), EXACT),
    ],
)
def test_each_filter_drops_the_chunk_itself_and_its_successor(
    filters: FilterConfig, reason: int, db: ChunkDatabase, stream: TokenStream
) -> None:
    own, others = own_rows(db, stream), other_rows(db, stream, 2)
    ids = np.array([[others[0], own[0], own[1], others[1]]])
    found, looked_at = CopyFilter(db, stream, filters).reasons(np.array([0]), ids, ids >= 0, 4)
    assert found.tolist() == [[0, reason, reason, 0]]
    assert looked_at == 4


def test_only_as_many_candidates_are_looked_at_as_needed(db: ChunkDatabase, stream: TokenStream) -> None:
    own, others = own_rows(db, stream), other_rows(db, stream, 4)
    ids = np.array([[own[0], others[0], own[1], others[1], others[2], others[3]]])
    found, looked_at = CopyFilter(db, stream, FilterConfig(exact_duplicates=True)).reasons(
        np.array([0]), ids, np.array([[True, True, True, False, True, True]]), 2
    )
    assert found.tolist() == [[EXACT, 0, EXACT, 0, 0, 0]]
    assert looked_at == 4


def test_filters_that_are_off_look_at_nothing(db: ChunkDatabase, stream: TokenStream) -> None:
    ids = own_rows(db, stream)[None]
    found, looked_at = CopyFilter(db, stream, FilterConfig()).reasons(np.array([0]), ids, ids >= 0, 2)
    assert (found.tolist(), looked_at) == ([[0, 0]], 0)


def test_own_documents_may_be_let_in_and_are_then_found_first(searcher: Searcher, stream: TokenStream) -> None:
    filters = FilterConfig(own_document=False)
    block = StreamQueries(searcher, stream, filters).block(range(1), 3, 6, lambda count: None)
    positions = stream_positions(stream.documents, searcher.db.corpus.token_file(0).documents)
    first = int(block.arrays["neighbors"][0, 0])
    assert positions[searcher.db.columns["document"][first]] == 0
    assert block.arrays["scores"][0, 0] == pytest.approx(1.0, abs=1e-3)
    assert block.counts["own_document"] == 0


def test_what_the_filters_take_is_searched_for_deeper_and_then_counted(searcher: Searcher, stream: TokenStream) -> None:
    # Most chunks of the small corpus share some word, so few are left where not one token may be shared.
    filters = FilterConfig(overlap_above=0.0)
    block = StreamQueries(searcher, stream, filters).block(range(4), 30, 60, lambda count: None)
    ids = block.arrays["neighbors"]
    assert block.counts["filtered"] == int((ids < 0).any(axis=1).sum()) > 0
    assert block.counts["few_chunks"] == block.counts["few_found"] == 0
    assert block.counts["searched_deeper"] >= block.counts["filtered"]
    assert block.counts["overlap"] > 0
    kept_chunk, kept_place = np.nonzero(ids >= 0)
    assert len(kept_chunk) < 4 * 30
    pair = CopyFilter(searcher.db, stream, filters).pair(kept_chunk, ids[kept_chunk, kept_place])
    assert (greatest_overlap(pair) == 0).all()
