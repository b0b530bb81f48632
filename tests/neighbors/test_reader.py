from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from retro.common.artifacts import MANIFEST, describe_files, parse_manifest, write_manifest
from retro.common.errors import ArtifactError, ConfigError
from retro.corpus.reader import Corpus, TokenStream
from retro.db import build as db_build
from retro.db.config import DbConfig
from retro.db.reader import ChunkDatabase
from retro.neighbors.build import run
from retro.neighbors.reader import Neighbors
from tests.db.road import CHUNK, make_corpus
from tests.neighbors.road import neighbors_config


@pytest.fixture
def neighbors(neighbors_dir: Path, db: ChunkDatabase, corpus: Corpus) -> Neighbors:
    return Neighbors.open(neighbors_dir, db, corpus)


@pytest.fixture
def copied(neighbors_dir: Path, tmp_path: Path) -> Path:
    shutil.copytree(neighbors_dir, tmp_path / "copy")
    return tmp_path / "copy"


def test_chunks_are_addressed_by_number_in_any_order(neighbors: Neighbors, corpus: Corpus) -> None:
    every = neighbors.of(0, 1, np.arange(neighbors.chunks(0, 1)), 4)
    assert len(every) == TokenStream(corpus, 1, 0, CHUNK).chunks
    some = neighbors.of(0, 1, np.array([7, 2, 7]), 2)
    assert some.dtype == np.int64
    assert some.tolist() == every[[7, 2, 7], :2].tolist()
    scores = neighbors.scores(0, 1, np.array([7, 2]), 4)
    assert (np.diff(scores, axis=1) <= 0).all()


def test_more_neighbors_than_were_saved_are_refused(neighbors: Neighbors) -> None:
    with pytest.raises(ConfigError, match=r"neighbors\.saved = 4: needs to be at least 5"):
        neighbors.of(0, 0, np.array([0]), 5)


@pytest.mark.parametrize("chunk", [-1, 10**6])
def test_chunks_that_do_not_exist_are_refused(neighbors: Neighbors, chunk: int) -> None:
    with pytest.raises(ValueError, match="outside a stream of"):
        neighbors.of(0, 0, np.array([chunk]), 1)


def test_a_split_that_was_not_searched_is_named(
    corpus_dir: Path, db_dir: Path, index_dir: Path, db: ChunkDatabase, corpus: Corpus, tmp_path: Path
) -> None:
    run(neighbors_config(splits=("valid",)), corpus_dir, db_dir, index_dir, tmp_path)
    neighbors = Neighbors.open(tmp_path, db, corpus)
    with pytest.raises(ArtifactError, match="has no neighbors of split 'train'"):
        neighbors.of(0, 0, np.array([0]), 1)


def test_a_truncated_file_is_named(copied: Path, db: ChunkDatabase, corpus: Corpus) -> None:
    path = copied / "valid.h5"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ArtifactError, match=r"valid\.h5: has \d+ bytes, its manifest says"):
        Neighbors.open(copied, db, corpus)


def test_a_file_that_is_no_hdf5_is_named(copied: Path, db: ChunkDatabase, corpus: Corpus) -> None:
    path = copied / "train.h5"
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(ArtifactError, match=r"train\.h5: has SHA-256 .* bytes changed on disk"):
        Neighbors.open(copied, db, corpus)


def test_neighbors_of_another_corpus_or_database_are_refused(
    neighbors_dir: Path, corpus_dir: Path, db: ChunkDatabase, corpus: Corpus, tmp_path: Path
) -> None:
    other = Corpus.open(make_corpus(tmp_path, seed=9))
    with pytest.raises(ArtifactError, match="was made from corpus"):
        Neighbors.open(neighbors_dir, db, other)
    db_build.run(DbConfig(chunk_length=5), corpus_dir, tmp_path / "2_db")
    with pytest.raises(ArtifactError, match="was made from db"):
        Neighbors.open(neighbors_dir, ChunkDatabase.open(tmp_path / "2_db", corpus), corpus)


def test_unfinished_neighbors_are_named(copied: Path, db: ChunkDatabase, corpus: Corpus) -> None:
    (copied / MANIFEST).unlink()
    with pytest.raises(ArtifactError, match="Run `retro neighbors` first"):
        Neighbors.open(copied, db, corpus)


@pytest.mark.parametrize("row", [-7, 1 << 40])
def test_neighbors_outside_of_the_database_are_named(copied: Path, db: ChunkDatabase, corpus: Corpus, row: int) -> None:
    with h5py.File(copied / "train.h5", "r+") as file:
        file[f"{corpus.sources[0]}/neighbors"][0, 0] = row
    manifest = parse_manifest(copied / MANIFEST, "")
    write_manifest(copied, replace(manifest, files=describe_files(copied, list(manifest.files))))
    forged = Neighbors.open(copied, db, corpus)
    with pytest.raises(ArtifactError, match=rf"train\.h5: has neighbors .*{row}.* in a database of {db.rows} rows"):
        forged.of(0, 0, np.array([0, 1]), 1)
