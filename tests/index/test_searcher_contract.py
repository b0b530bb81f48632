"""What every backend of search has to do, whatever holds the vectors."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from retro.common.artifacts import MANIFEST
from retro.common.errors import ArtifactError
from retro.common.hdf5 import map_column
from retro.common.row_set import RowSet
from retro.corpus.reader import Corpus
from retro.db import build as db_build
from retro.db.reader import ChunkDatabase
from retro.db.versions import Part
from retro.index import build
from retro.index.milvus_client import DATABASE
from retro.index.rerank import pair_scores
from retro.index.searcher import Searcher, open_searcher
from retro.updates.change import add
from retro.updates.state import VersionedDatabase, open_latest
from tests.corpus.texts import write_stories
from tests.db.road import DB
from tests.db.stops import flip_byte
from tests.index.road import index_config

WITHOUT_MILVUS = [name for name in ("pymilvus", "milvus_lite") if importlib.util.find_spec(name) is None]
needs_milvus = pytest.mark.skipif(
    bool(WITHOUT_MILVUS), reason=f'{WITHOUT_MILVUS} missing: pip install "instruct-retro[milvus-lite]"'
)
IVF: dict[str, Any] = {"faiss": "IVF8,SQ8", "nprobe": 6, "train_sample": 300}
SETTINGS: dict[str, dict[str, Any]] = {
    "faiss-exact": {},
    "faiss-ivf": IVF,
    "faiss-refined-ivf": {"faiss": "IVF8,RaBitQ", "nprobe": 7, "refine_factor": 8, "train_sample": 300},
    "faiss-hnsw": {"faiss": "HNSW16"},
    "sharded-exact": {"shards": 3},
    "sharded-ivf": IVF | {"shards": 3},
    "sharded-refined-ivf": {"faiss": "IVF8,RaBitQ", "nprobe": 7, "refine_factor": 8, "train_sample": 300, "shards": 3},
    "milvus-flat": {"backend": "milvus"},
    "milvus-hnsw": {"backend": "milvus", "milvus": {"index": "HNSW"}},
}
VERSION = "version-of-three-parts"
EXACT = ("faiss-exact", "sharded-exact", "milvus-flat", VERSION)
APPROXIMATE = tuple(name for name in SETTINGS if name not in EXACT)


def backends(*names: str) -> list[Any]:
    """Parameters for the fixture `made`."""
    return [pytest.param(name, marks=needs_milvus if name.startswith("milvus") else ()) for name in names]


@dataclass(frozen=True)
class Made:
    """One index of the small database."""

    directory: Path
    name: str
    searcher: Searcher
    vectors: NDArray[np.float32]

    @property
    def exact(self) -> bool:
        return self.name in EXACT

    def true(self, queries: NDArray[np.float32], k: int, rows: RowSet) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """By comparing every pair: the best rows, of equals the lower, and their scores."""
        ids = np.arange(len(self.vectors))[rows.contains(np.arange(len(self.vectors)))]
        scores = pair_scores(self.vectors, queries, np.tile(ids, (len(queries), 1)))
        order = np.lexsort((np.tile(ids, (len(queries), 1)), -scores), axis=-1)[:, :k]
        return ids[order], np.take_along_axis(scores, order, axis=1)


@pytest.fixture(scope="module", params=backends(*SETTINGS, VERSION))
def made(
    request: pytest.FixtureRequest, corpus_dir: Path, db_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Made:
    directory = tmp_path_factory.mktemp(request.param)
    if request.param == VERSION:
        return version_of_three_parts(corpus_dir, db_dir, directory)
    build.run(index_config(**SETTINGS[request.param]), corpus_dir, db_dir, directory)
    db = ChunkDatabase.open(db_dir, Corpus.open(corpus_dir))
    vectors = map_column(directory / "embeddings.h5", "embeddings", "").astype(np.float32)
    return Made(directory, request.param, open_searcher(directory, db), vectors)


def version_of_three_parts(corpus_dir: Path, db_dir: Path, out: Path) -> Made:
    """The small database and what was added to it twice, each part with its own index."""
    build.run(index_config(), corpus_dir, db_dir, out / "3_index")
    home = VersionedDatabase(base=Part(corpus=corpus_dir, db=db_dir, index=out / "3_index"), versions=out / "versions")
    for first in (100, 105):
        add(home, write_stories(out / f"{first}.jsonl", 5, first), "a")
    current = open_latest(home)
    maps = [map_column(part.index / "embeddings.h5", "embeddings", "") for part in current.parts]
    directory = home.directory(current.number)
    searcher = open_searcher(directory, current.database)
    return Made(directory, VERSION, searcher, np.concatenate(maps).astype(np.float32))


@pytest.fixture(scope="module")
def queries(made: Made) -> NDArray[np.float32]:
    # Chunks, so that texts that stand twice give equal scores, and sums of two chunks.
    chunks = made.vectors[::7]
    sums = made.vectors[1:60] + made.vectors[40:99]
    mixed: NDArray[np.float32] = np.concatenate([chunks, sums / np.linalg.norm(sums, axis=1, keepdims=True)])
    return mixed


def test_the_best_come_first_each_once_and_every_id_is_a_row(made: Made, queries: NDArray[np.float32]) -> None:
    ids, scores = made.searcher.search(queries, 10)
    assert (ids.dtype, scores.dtype, ids.shape, scores.shape) == (np.int64, np.float32, *[(len(queries), 10)] * 2)
    there = ids >= 0
    assert there[:, 0].all()
    assert (ids < made.searcher.db.rows).all()
    assert (np.diff(scores, axis=1) <= 0).all()
    assert all(len(set(row[row >= 0].tolist())) == (row >= 0).sum() for row in ids)
    equal = (scores[:, 1:] == scores[:, :-1]) & there[:, 1:]
    assert (ids[:, 1:] > ids[:, :-1])[equal].all()


def test_scores_are_inner_products(made: Made, queries: NDArray[np.float32]) -> None:
    ids, scores = made.searcher.search(queries, 10)
    wrong = np.abs(scores - pair_scores(made.vectors, queries, ids))[ids >= 0]
    # SQ8 keeps 8 bits of each value, between the least and the greatest of its training sample.
    assert wrong.mean() < 0.02 if made.name.endswith("ivf") else wrong.max() < 1e-5


@pytest.mark.parametrize("made", backends(*EXACT), indirect=True)
def test_exact_backends_find_what_comparing_every_pair_finds(made: Made, queries: NDArray[np.float32]) -> None:
    for rows in (made.searcher.db.all_rows, made.searcher.db.retrievable):
        true_ids, true_scores = made.true(queries, 12, rows)
        ids, scores = made.searcher.search(queries, 12, rows)
        assert np.allclose(scores, true_scores, atol=1e-5)
        if made.name.startswith("milvus"):
            # Its last bits are its own: rows may change places where scores are equal but for rounding.
            differ = ids != true_ids
            assert np.allclose(pair_scores(made.vectors, queries, ids)[differ], true_scores[differ], atol=1e-6)
        else:
            assert np.array_equal(ids, true_ids)
            assert np.array_equal(scores, true_scores)


@pytest.mark.parametrize("made", backends(*APPROXIMATE), indirect=True)
def test_approximate_backends_find_most_of_it(made: Made, queries: NDArray[np.float32]) -> None:
    rows = made.searcher.db.retrievable
    _, true_scores = made.true(queries, 10, rows)
    ids, _ = made.searcher.search(queries, 10, rows)
    # As near as the tenth: by row numbers, one of two chunks with the same text would be right and the other wrong.
    near = (pair_scores(made.vectors, queries, ids) >= true_scores[:, -1:] - 1e-5).mean()
    assert 0.9 <= near < 1 or made.name.endswith("hnsw")
    assert near >= 0.9


def test_only_rows_asked_for_are_found(made: Made, queries: NDArray[np.float32]) -> None:
    total = made.searcher.db.rows
    free, _ = made.searcher.search(queries, 3)
    # Without the best row of every query, over two ranges with a gap that no shard's border falls on.
    rows = RowSet.of(range(5, total // 2 - 9), range(total // 2 + 8, total - 3), removed=free[:, 0])
    ids, scores = made.searcher.search(queries, 7, rows)
    assert rows.contains(ids[ids >= 0]).all()
    assert (ids[:, 0] >= 0).all()
    if made.exact:
        assert np.allclose(scores, made.true(queries, 7, rows)[1], atol=1e-5)


def test_removed_rows_are_not_found_unless_told_otherwise(made: Made, queries: NDArray[np.float32]) -> None:
    gone = np.unique(made.searcher.search(queries, 1)[0])
    shrunk = replace(made.searcher.db, removed=gone)
    searcher = open_searcher(made.directory, shrunk)
    ids, _ = searcher.search(queries, 5)
    assert not np.isin(ids, gone).any()
    assert (ids[:, 0] >= 0).all()
    assert np.array_equal(
        searcher.search(queries, 5, RowSet.of(range(shrunk.rows)))[0], made.searcher.search(queries, 5)[0]
    )


def test_what_is_not_there_is_minus_one(made: Made, queries: NDArray[np.float32]) -> None:
    rows = RowSet.of(range(10, 16), removed=[12])
    ids, scores = made.searcher.search(queries[:4], 9, rows)
    assert (ids[:, 5:] == -1).all()
    assert (scores[:, 5:] == -np.inf).all()
    assert (np.isfinite(scores) == (ids >= 0)).all()
    if made.exact:
        assert np.sort(ids[:, :5], axis=1).tolist() == [[10, 11, 13, 14, 15]] * 4
    whole, _ = made.searcher.search(queries[:2], made.searcher.db.rows + 5)
    assert (whole[:, -5:] == -1).all()
    if made.exact:
        assert np.sort(whole[:, :-5], axis=1).tolist() == [list(range(made.searcher.db.rows))] * 2


def test_no_queries_and_no_rows_give_nothing(made: Made, queries: NDArray[np.float32]) -> None:
    ids, scores = made.searcher.search(queries[:0], 4)
    assert (ids.shape, scores.shape) == ((0, 4), (0, 4))
    ids, scores = made.searcher.search(queries[:3], 4, RowSet.of())
    assert (ids == -1).all()
    assert (scores == -np.inf).all()


@pytest.mark.parametrize(("shape", "k"), [((2, 32), 5), ((64,), 5), ((2, 64), 0)])
def test_questions_that_cannot_be_are_refused(made: Made, shape: tuple[int, ...], k: int) -> None:
    with pytest.raises(ValueError, match="cannot look for"):
        made.searcher.search(np.zeros(shape, dtype=np.float32), k)


def test_a_query_is_answered_alike_in_every_batch_and_every_opening(made: Made, queries: NDArray[np.float32]) -> None:
    whole, scores = made.searcher.search(queries, 6)
    opened = open_searcher(made.directory, made.searcher.db)
    parts = [opened.search(queries[at : at + 19], 6) for at in range(0, len(queries), 19)]
    assert np.allclose(np.concatenate([part[1] for part in parts]), scores, atol=1e-6)
    if made.name in ("faiss-exact", "sharded-exact", "version-of-three-parts"):
        assert np.array_equal(np.concatenate([part[0] for part in parts]), whole)
        assert np.array_equal(np.concatenate([part[1] for part in parts]), scores)


def test_manifest_dimension_and_embedder_belong_together(made: Made) -> None:
    searcher = made.searcher
    assert searcher.manifest.stage == ("version" if made.name == "version-of-three-parts" else "index")
    assert searcher.dimension == searcher.embedder.dimension == made.vectors.shape[1] == 64


def _no_manifest(directory: Path) -> None:
    (directory / MANIFEST).unlink()


def _damage_every_file(directory: Path) -> None:
    for file in directory.glob("*.faiss"):
        flip_byte(file)
    if (directory / DATABASE).exists():
        shutil.rmtree(directory / DATABASE)


def _remove_the_last_file(directory: Path) -> None:
    for file in sorted(directory.glob("*.faiss"))[-1:]:
        file.unlink()
    if (directory / DATABASE).exists():
        shutil.rmtree(directory / DATABASE)


# A version's parts are elsewhere; tests/living damages them.
@pytest.mark.parametrize("made", backends(*SETTINGS), indirect=True)
@pytest.mark.parametrize("damage", [_no_manifest, _damage_every_file, _remove_the_last_file])
def test_damage_is_an_error_that_says_what_to_run(made: Made, damage: Callable[[Path], None], tmp_path: Path) -> None:
    shutil.copytree(made.directory, tmp_path / "copy")
    damage(tmp_path / "copy")
    with pytest.raises(ArtifactError, match="`retro index`"):
        open_searcher(tmp_path / "copy", made.searcher.db).search(np.eye(1, 64, dtype=np.float32), 3)


def test_an_index_of_another_database_is_refused(made: Made, corpus_dir: Path, tmp_path: Path) -> None:
    db_build.run(DB.model_copy(update={"chunk_length": 16}), corpus_dir, tmp_path)
    with pytest.raises(ArtifactError, match="was made from db"):
        open_searcher(made.directory, ChunkDatabase.open(tmp_path, Corpus.open(corpus_dir)))
