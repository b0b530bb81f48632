from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retro.common.artifacts import read_manifest
from retro.common.errors import ArtifactError
from retro.common.files import read_json
from retro.common.launcher import Worker
from retro.corpus.reader import Corpus, TokenStream
from retro.index import build as index_build
from retro.index.searcher import Searcher, open_searcher
from retro.index.shards import shard_rows
from retro.index.vector_index import FaissFile
from retro.neighbors.build import run
from retro.neighbors.query import StreamQueries
from retro.neighbors.reader import ChunkRange
from retro.neighbors.sharded_search import EXCHANGE, QueryBlock, ShardExchange
from tests.corpus.texts import artifact_bytes
from tests.db.road import CHUNK
from tests.db.stops import Stopped, flip_byte, stopped_at_rename
from tests.index.road import index_config
from tests.neighbors.road import NEIGHBORS

SHARDS = 3
Dirs = tuple[Path, Path, Path]


@pytest.fixture(scope="module")
def dirs(corpus_dir: Path, db_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Dirs:
    index_dir = tmp_path_factory.mktemp("sharded")
    index_build.run(index_config(shards=SHARDS), corpus_dir, db_dir, index_dir)
    return corpus_dir, db_dir, index_dir


@pytest.fixture(scope="module")
def alone(dirs: Dirs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The neighbors that one worker finds, who searches all files."""
    out = tmp_path_factory.mktemp("alone")
    run(NEIGHBORS, *dirs, out)
    return out


def test_a_divided_index_gives_the_same_neighbors_as_a_whole_one(
    alone: Path, corpus_dir: Path, db_dir: Path, index_dir: Path, tmp_path: Path
) -> None:
    run(NEIGHBORS, corpus_dir, db_dir, index_dir, tmp_path)
    for name in ("train.h5", "valid.h5", "test.h5"):
        assert (alone / name).read_bytes() == (tmp_path / name).read_bytes()


def test_workers_together_make_the_bytes_of_one(dirs: Dirs, alone: Path, tmp_path: Path) -> None:
    workers = [
        threading.Thread(target=run, args=(NEIGHBORS, *dirs, tmp_path), kwargs={"worker": Worker(rank, SHARDS)})
        for rank in range(SHARDS)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert artifact_bytes(tmp_path) == artifact_bytes(alone)
    assert not (tmp_path / EXCHANGE).exists()


def test_a_worker_begins_with_one_file_for_all_queries(
    dirs: Dirs, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[range] = []
    search = FaissFile.search

    def record(self: FaissFile, *asked: Any) -> Any:
        searched.append(self.rows)
        return search(self, *asked)

    monkeypatch.setattr(FaissFile, "search", record)
    run(NEIGHBORS, *dirs, tmp_path, worker=Worker(1, SHARDS))
    blocks = sum(-(-count // 60) for count in read_json(tmp_path / "report.json", "")["queries"].values())
    parts = shard_rows(read_manifest(dirs[2], "index").counts["rows"], SHARDS)
    # Its own file first; nobody else came, so it did the work of the others after that.
    assert blocks > 2
    assert set(searched[: blocks - 1]) == {parts[1]}
    assert artifact_bytes(tmp_path) == artifact_bytes(alone)


def test_a_stop_costs_nothing_but_time(dirs: Dirs, alone: Path, tmp_path: Path) -> None:
    whole = artifact_bytes(alone)
    # Some of the stops before and after a rename: among embeddings, among candidates, while joining.
    for stop in (1, 10, 17, 32, 49, 62):
        out = tmp_path / str(stop)
        with pytest.raises(Stopped), stopped_at_rename(stop):
            run(NEIGHBORS, *dirs, out, worker=Worker(0, 2))
        # Another number of workers continues with what is there.
        run(NEIGHBORS, *dirs, out, worker=Worker(stop % 3, 3))
        assert artifact_bytes(out) == whole
        assert not (out / EXCHANGE).exists()


def test_damaged_candidates_are_named_and_found_again(dirs: Dirs, alone: Path, tmp_path: Path) -> None:
    with pytest.raises(Stopped), stopped_at_rename(28):
        run(NEIGHBORS, *dirs, tmp_path, worker=Worker(0, 2))
    damaged = sorted((tmp_path / EXCHANGE / "candidates").glob("*.h5"))[1]
    flip_byte(damaged, "ids")
    with pytest.raises(ArtifactError, match=rf"{damaged.name}: has changed bytes .* Run `retro neighbors` again"):
        # What is not of its own share it believes to be whole, until it reads the block.
        run(NEIGHBORS, *dirs, tmp_path, worker=Worker(1, 2))
    run(NEIGHBORS, *dirs, tmp_path, worker=Worker(1, 2))
    assert artifact_bytes(tmp_path) == artifact_bytes(alone)


def test_only_an_index_in_several_files_is_exchanged(
    dirs: Dirs, searcher: Searcher, corpus: Corpus, tmp_path: Path
) -> None:
    block = QueryBlock(StreamQueries(searcher, TokenStream(corpus, 0, 0, CHUNK)), ChunkRange("train", 0, range(5)))
    assert ShardExchange.of(searcher, [block], 6, {}, tmp_path) is None
    divided = open_searcher(dirs[2], searcher.db)
    assert ShardExchange.of(divided, [block], 6, {}, tmp_path) is not None
    # Nothing to find: the one search that says so needs no exchange.
    empty = replace(searcher.db, removed=np.arange(searcher.db.rows))
    assert ShardExchange.of(open_searcher(dirs[2], empty), [block], 6, {}, tmp_path) is None
