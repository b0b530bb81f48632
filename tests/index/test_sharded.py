from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from retro.common.artifacts import Manifest, describe_files
from retro.common.errors import ConfigError
from retro.common.row_set import RowSet
from retro.index.config import IndexConfig
from retro.index.faiss_index import fill_index, save_index
from retro.index.index_choice import create_index
from retro.index.shards import ShardedFiles, index_files, require_shardable, shard_file, shard_index, shard_rows
from retro.index.vector_index import FaissFile

ROWS, DIMENSION = 3000, 32
DIVISIBLE = ("Flat", "SQ8", "RaBitQ", "IVF16,Flat", "IVF16,SQ8", "RR32,IVF16_HNSW8,RaBitQ", "OPQ8_32,IVF16,PQ8x4")


def vectors() -> np.ndarray[tuple[int, int], np.dtype[np.float16]]:
    """Unit vectors; every tenth stands ten times, at places far from each other."""
    drawn = np.random.default_rng(0).standard_normal((ROWS, DIMENSION))
    drawn[1::10] = np.tile(drawn[1:301:10], (10, 1))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float16)


def stored(directory: Path, factory: str, shards: int) -> FaissFile | ShardedFiles:
    """An index of the vectors in `directory`, divided."""
    index = create_index(factory, DIMENSION, ROWS)
    fill_index(index, factory, vectors(), np.arange(ROWS), reproducible=True)
    save_index(index, directory / "index.faiss")
    names = ["index.faiss"] if shards == 1 else shard_index(directory / "index.faiss", ROWS, DIMENSION, shards)
    config = IndexConfig(faiss=factory, nprobe=5, ef_search=40)
    manifest = Manifest(
        stage="index",
        config=config.shaping,
        parents={},
        counts={"dimension": DIMENSION},
        files=describe_files(directory, names),
    )
    parts = shard_rows(ROWS, shards)
    files = [FaissFile(directory, name, manifest, part) for name, part in zip(names, parts, strict=True)]
    return files[0] if shards == 1 else ShardedFiles(files)


def test_rows_are_divided_evenly_in_their_order() -> None:
    assert shard_rows(10, 3) == [range(4), range(4, 7), range(7, 10)]
    assert shard_rows(3, 3) == [range(1), range(1, 2), range(2, 3)]
    assert shard_rows(7, 1) == [range(7)]
    with pytest.raises(ValueError, match="cannot divide 3 rows into 4 shards"):
        shard_rows(3, 4)


def test_files_are_named_by_place_and_number() -> None:
    assert shard_file(2, 16) == "index-00002-of-00016.faiss"
    assert index_files(IndexConfig()) == ["index.faiss"]
    assert index_files(IndexConfig(shards=2)) == ["index-00000-of-00002.faiss", "index-00001-of-00002.faiss"]
    assert index_files(IndexConfig(backend="milvus")) == []


@pytest.mark.parametrize("factory", DIVISIBLE)
def test_a_divided_index_finds_what_the_whole_one_finds_bit_for_bit(factory: str, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "divided").mkdir()
    whole, divided = stored(tmp_path / "whole", factory, 1), stored(tmp_path / "divided", factory, 4)
    assert len(list((tmp_path / "divided").iterdir())) == 4
    # Rows 1, 11, 21 … stand ten times, so their lists of neighbors are cut among equals.
    queries = np.concatenate([vectors()[:200], vectors()[1:300:10]]).astype(np.float32)
    for rows in (
        RowSet.of(range(ROWS)),
        RowSet.of(range(2111)),
        RowSet.of(range(40, 1300), range(1400, 2900), removed=range(41, 2000, 30)),
        RowSet.of(range(800, 1000)),
    ):
        for k in (1, 5, 23):
            ids, scores = whole.search(queries, k, rows)
            divided_ids, divided_scores = divided.search(queries, k, rows)
            assert np.array_equal(divided_ids, ids)
            assert np.array_equal(divided_scores, scores)


def test_equals_at_the_end_of_a_list_are_the_lowest_rows(tmp_path: Path) -> None:
    index = stored(tmp_path, "Flat", 3)
    query = vectors()[1:2].astype(np.float32)
    ids, scores = index.search(query, 7, RowSet.of(range(ROWS)))
    assert ids.tolist() == [[1, 301, 601, 901, 1201, 1501, 1801]]
    assert len(set(scores[0].tolist())) == 1
    ids, _ = index.search(query, 3, RowSet.of(range(ROWS), removed=[1, 601]))
    assert ids.tolist() == [[301, 901, 1201]]


@pytest.mark.parametrize("factory", ["HNSW16", "IVF16,PQ8x4fs", "IVF16,SQ8,RFlat"])
def test_an_index_that_cannot_be_divided_is_refused_before_it_is_built(factory: str) -> None:
    words = rf"index\.shards = 2: needs an index of flat codes or .* index\.faiss is '{factory}'"
    index = create_index(factory, DIMENSION, ROWS)
    with pytest.raises(ConfigError, match=words):
        require_shardable(index, ROWS, 2, factory)
    require_shardable(index, ROWS, 1, factory)


def test_more_files_than_rows_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"index\.shards = 4: needs to be at most the number of chunks, 3"):
        require_shardable(create_index("Flat", DIMENSION, 3), 3, 4, "Flat")
