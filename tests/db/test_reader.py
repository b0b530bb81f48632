from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retro.common.artifacts import MANIFEST, describe_files, parse_manifest, read_manifest, write_manifest
from retro.common.errors import ArtifactError
from retro.common.files import read_json, write_json
from retro.common.hdf5 import create_column, new_file
from retro.corpus.reader import Corpus
from retro.db.reader import ChunkDatabase
from retro.db.schema import COLUMNS
from tests.corpus.texts import story
from tests.db.road import CHUNK


def naive_neighbor(db: ChunkDatabase, row: int) -> list[int]:
    """The tokens of a row and of the next one of its document, by plain loops; not padded."""
    found: list[int] = []
    for step in (0, 1) if row >= 0 else ():
        if step == 0 or db.columns["continues"][row]:
            source, start, count = (int(db.columns[n][row + step]) for n in ("source", "token_start", "token_count"))
            found += db.corpus.token_file(source).tokens[start : start + count].tolist()
    return found


def padded(tokens: list[int], width: int, eod: int) -> list[int]:
    return tokens + [eod] * (width - len(tokens))


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_neighbor_tokens_are_those_of_a_plain_loop(db: ChunkDatabase, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(-1, db.rows - 1), min_size=4, max_size=4))
    tokens, mask = db.neighbor_tokens(np.array(ids).reshape(2, 2))
    assert tokens.shape == mask.shape == (2, 2, 2 * CHUNK)
    for row, tokens_R, mask_R in zip(ids, tokens.reshape(4, -1), mask.reshape(4, -1), strict=True):
        wanted = naive_neighbor(db, row)
        assert tokens_R.tolist() == padded(wanted, 2 * CHUNK, db.corpus.tokenizer.eod)
        assert mask_R.tolist() == [True] * len(wanted) + [False] * (2 * CHUNK - len(wanted))


def test_minus_one_is_masked_and_never_looked_up(db: ChunkDatabase) -> None:
    tokens, mask = db.neighbor_tokens(np.full((3, 2), -1))
    assert not mask.any()
    assert (tokens == db.corpus.tokenizer.eod).all()


def test_a_continuation_never_crosses_the_end_of_a_document(db: ChunkDatabase) -> None:
    last = np.flatnonzero(db.columns["continues"] == 0)
    _, mask = db.neighbor_tokens(last)
    assert mask.sum(axis=1).tolist() == db.columns["token_count"][last].tolist()
    # The last row of all has nothing behind it either.
    assert db.neighbor_tokens(np.array([db.rows - 1]))[1].sum() == db.columns["token_count"][-1]


def test_the_chunks_of_a_document_join_to_its_text(db: ChunkDatabase) -> None:
    rows = np.flatnonzero((db.columns["source"] == 1) & (db.columns["document"] == 3))
    tokens, mask = db.chunk_tokens(rows)
    assert db.corpus.tokenizer.decode(tokens[mask]) == story(43)
    assert {db.document_id(int(row)) for row in rows} == {"d43"}
    assert {db.document_title(int(row)) for row in rows} == {"Story 43"}
    assert db.text(int(rows[0])) == db.corpus.tokenizer.decode(tokens[0])
    assert (db.chunk_length, db.retrieved_length) == (CHUNK, 2 * CHUNK)


def test_document_keys_tell_sources_and_documents_apart(db: ChunkDatabase) -> None:
    keys = db.document_key(np.arange(db.rows))
    pairs = set(zip(db.columns["source"].tolist(), db.columns["document"].tolist(), strict=True))
    assert len(set(keys.tolist())) == len(pairs) == 51
    first_of_b = int(np.flatnonzero(db.columns["source"] == 1)[0])
    document = int(db.columns["document"][first_of_b])
    assert db.document_key(np.array([[first_of_b]])).tolist() == [[2**40 + document]]


@pytest.mark.parametrize("rows", [[-1], [10**6]])
def test_rows_that_do_not_exist_are_refused(db: ChunkDatabase, rows: list[int]) -> None:
    with pytest.raises(ValueError, match="outside the"):
        db.chunk_tokens(np.array(rows))
    with pytest.raises(ValueError, match="outside the"):
        db.neighbor_tokens(np.array([rows[0] * 2]))


@pytest.fixture
def copied(db_dir: Path, tmp_path: Path) -> Path:
    shutil.copytree(db_dir, tmp_path / "copy")
    return tmp_path / "copy"


def test_a_truncated_database_is_named(copied: Path, corpus: Corpus) -> None:
    path = copied / "db.h5"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match=r"db\.h5: has \d+ bytes, its manifest says \d+"):
        ChunkDatabase.open(copied, corpus)


def test_a_database_that_is_no_hdf5_is_named(copied: Path, corpus: Corpus) -> None:
    path = copied / "db.h5"
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(ArtifactError, match=r"db\.h5: has SHA-256 .* bytes changed on disk"):
        ChunkDatabase.open(copied, corpus)


def test_columns_of_another_shape_are_named(copied: Path, corpus: Corpus) -> None:
    manifest = read_manifest(copied, "db")
    with new_file(copied / "db.h5") as file:
        for name in COLUMNS:
            create_column(file, name, (3,), np.int64)[...] = 0
    manifest.files.update(describe_files(copied, ["db.h5"]))
    write_manifest(copied, manifest)
    with pytest.raises(ArtifactError, match="column 'source' is int64"):
        ChunkDatabase.open(copied, corpus)


def test_an_unfinished_database_is_named(copied: Path, corpus: Corpus) -> None:
    (copied / MANIFEST).unlink()
    with pytest.raises(ArtifactError, match="Run `retro db` first"):
        ChunkDatabase.open(copied, corpus)


def test_an_edited_manifest_is_named(copied: Path, corpus: Corpus) -> None:
    data = read_json(copied / MANIFEST, "")
    data["config"]["chunk_length"] = 4
    write_json(copied / MANIFEST, data)
    with pytest.raises(ArtifactError, match="was edited"):
        ChunkDatabase.open(copied, corpus)


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("source", 9, "its rows do not fit its corpus"),
        ("token_start", -1, "its rows do not fit its corpus"),
        ("token_start", 1 << 60, "its rows do not fit its corpus"),
        ("token_count", -5, "its rows do not fit its corpus"),
        ("token_count", 1 << 30, "its rows do not fit its corpus"),
        ("continues", 1, "the last one, is said to continue"),
    ],
)
def test_rows_with_forged_values_are_named(copied: Path, corpus: Corpus, column: str, value: int, words: str) -> None:
    with h5py.File(copied / "db.h5", "r+") as file:
        file[column][-1] = value
    manifest = parse_manifest(copied / MANIFEST, "")
    write_manifest(copied, replace(manifest, files=describe_files(copied, list(manifest.files))))
    forged = ChunkDatabase.open(copied, corpus)
    with pytest.raises(ArtifactError, match=words):
        forged.neighbor_tokens(np.array([forged.rows - 1]))
