from __future__ import annotations

import numpy as np
import pytest

from retro.common.artifacts import Manifest
from retro.corpus.reader import Corpus
from retro.db.reader import ChainedColumn, ChunkDatabase

PARTS = [np.array([5, 6, 7], dtype=np.uint16), np.array([], dtype=np.uint16), np.array([1, 2], dtype=np.uint16)]


def test_rows_of_the_first_part_come_before_those_of_the_next() -> None:
    column = ChainedColumn(PARTS, added=(0, 100, 10))
    assert column[np.array([4, 0, 3, 2])].tolist() == [12, 5, 11, 7]
    assert column[np.array([[1], [3]])].tolist() == [[6], [11]]
    assert (int(column[3]), int(column[-1])) == (11, 12)
    assert column[1:4].tolist() == [6, 7, 11]
    assert column[np.array([], dtype=np.int64)].tolist() == []
    assert np.asarray(column).tolist() == [5, 6, 7, 11, 12]
    assert (len(column), column.shape, column.dtype) == (5, (5,), np.dtype(np.uint16))


def test_a_row_that_is_not_there_is_an_error() -> None:
    column = ChainedColumn(PARTS)
    for row in (5, -6):
        with pytest.raises(IndexError, match="of a column of 5"):
            column[np.array([0, row])]


def test_parts_of_several_types_are_refused() -> None:
    with pytest.raises(ValueError, match="types"):
        ChainedColumn([PARTS[0], PARTS[0].astype(np.int64)])


@pytest.fixture
def twice(db: ChunkDatabase) -> ChunkDatabase:
    """The database, and itself again behind it; row 1 is removed, and the second row of the second part."""
    counts = db.manifest.counts | {"rows": 2 * db.rows}
    manifest = Manifest(stage="version", config=db.manifest.config | {"version": 1}, parents={}, counts=counts)
    return ChunkDatabase.joined(manifest, [db, db], np.array([db.rows + 1, 1]))


def test_rows_and_sources_of_joined_databases_are_numbered_part_after_part(
    db: ChunkDatabase, twice: ChunkDatabase
) -> None:
    rows = np.arange(db.rows)
    assert twice.version == 1
    assert db.version == 0
    assert twice.rows == 2 * db.rows
    assert twice.corpus.sources == ("a", "b", "a", "b")
    assert twice.columns["source"][rows + db.rows].tolist() == (db.columns["source"] + 2).tolist()
    keys = twice.document_key(np.arange(twice.rows))
    assert len(np.unique(keys)) == 2 * len(np.unique(db.document_key(rows)))
    for of_one, of_two in zip(db.neighbor_tokens(rows), twice.neighbor_tokens(rows + db.rows), strict=True):
        assert np.array_equal(of_one, of_two)
    assert twice.text(db.rows + 3) == db.text(3)
    assert twice.document_id(db.rows + 3) == db.document_id(3)
    assert twice.document_title(db.rows + 3) == db.document_title(3)


def test_a_continuation_never_crosses_into_the_next_part(db: ChunkDatabase, twice: ChunkDatabase) -> None:
    _, mask = twice.neighbor_tokens(np.array([db.rows - 1]))
    assert mask.sum() == db.columns["token_count"][-1]


def test_added_rows_may_be_neighbors_and_removed_ones_may_not(db: ChunkDatabase, twice: ChunkDatabase) -> None:
    rows = np.arange(twice.rows)
    held_out = np.isin(rows, [*db.rows_of(1), *db.rows_of(2)])
    removed = np.isin(rows, [1, db.rows + 1])
    assert twice.retrievable.contains(rows).tolist() == (~held_out & ~removed).tolist()
    assert twice.all_rows.contains(rows).tolist() == (~removed).tolist()
    assert twice.added == range(db.rows, 2 * db.rows)
    assert db.added == range(db.rows, db.rows)


def test_a_joined_corpus_reads_every_part(corpus: Corpus) -> None:
    joined = Corpus.joined([corpus, corpus])
    assert joined.weights == (*corpus.weights, 0.0, 0.0)
    assert list(joined.document_ids(3)) == [corpus.document_id(1, n) for n in range(11)]
    assert joined.split_of(2).tolist() == corpus.split_of(0).tolist()
    assert joined.tokenizer.fingerprint == corpus.tokenizer.fingerprint
