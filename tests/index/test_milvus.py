from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retro.common.errors import ArtifactError, ConfigError, DependencyError
from retro.common.files import read_json
from retro.common.hdf5 import map_column
from retro.common.row_set import RowSet
from retro.corpus.reader import Corpus
from retro.db.reader import ChunkDatabase
from retro.index import build
from retro.index.config import IndexConfig, MilvusConfig
from retro.index.milvus import MOST_HITS, MilvusCollection, expression
from retro.index.milvus_client import DATABASE, TOKEN_VARIABLE, URI_VARIABLE, MilvusServer, load_pymilvus
from retro.index.searcher import open_searcher
from tests.index.road import index_config

ROWS, DIMENSION = 700, 16
installed = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("pymilvus", "milvus_lite")),
    reason='needs Milvus Lite: pip install "instruct-retro[milvus-lite]"',
)


def vectors() -> np.ndarray[tuple[int, int], np.dtype[np.float16]]:
    drawn = np.random.default_rng(0).standard_normal((ROWS, DIMENSION))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float16)


def collection(directory: Path, sha256: str = "a" * 64, rows: int = ROWS, **milvus: Any) -> MilvusCollection:
    config = IndexConfig(backend="milvus", milvus=milvus)
    return MilvusCollection.of(directory, config, sha256, rows, DIMENSION)


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        (RowSet.of(range(10)), ""),
        (RowSet.of(range(8)), "((row >= 0 and row < 8))"),
        (RowSet.of(range(10), removed=[3, 5]), "row not in [3, 5]"),
        (
            RowSet.of(range(2), range(4, 6), removed=[4]),
            "((row >= 0 and row < 2) or (row >= 4 and row < 6)) and row not in [4]",
        ),
    ],
)
def test_rows_are_asked_for_in_milvus_words(rows: RowSet, wanted: str) -> None:
    assert expression(rows, 10) == wanted


@installed
def test_a_stop_half_way_neither_doubles_nor_loses_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retro.index.milvus._BYTES_AT_ONCE", 4 * DIMENSION * 100)
    stopped = collection(tmp_path)
    sent = stopped.client.upsert

    def die_at_the_fourth(name: str, data: list[dict[str, Any]]) -> None:
        # The fourth batch is cut short: half of its rows arrive, and the answer does not.
        sent(name, data[:50] if data[0]["row"] == 300 else data)
        if data[0]["row"] == 300:
            raise KeyboardInterrupt

    monkeypatch.setattr(stopped.client, "upsert", die_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        stopped.fill(vectors())
    assert stopped._count() == 350
    with pytest.raises(ArtifactError, match=r"holds 350 vectors, needed are 700\. Run `retro index` again"):
        collection(tmp_path).search(np.eye(1, DIMENSION, dtype=np.float32), 3, RowSet.of(range(ROWS)))

    batches: list[int] = []
    resumed = collection(tmp_path)

    def send(name: str, data: list[dict[str, Any]]) -> None:
        batches.append(data[0]["row"])
        sent(name, data)

    monkeypatch.setattr(resumed.client, "upsert", send)
    resumed.fill(vectors())
    assert batches == [300, 400, 500, 600]
    ids, _ = resumed.search(vectors()[:50].astype(np.float32), ROWS, RowSet.of(range(ROWS)))
    assert np.sort(ids, axis=1).tolist() == [list(range(ROWS))] * 50
    batches.clear()
    resumed.fill(vectors())
    assert batches == []


@installed
def test_other_embeddings_or_another_index_type_are_another_collection(tmp_path: Path) -> None:
    first = collection(tmp_path)
    first.fill(vectors())
    others = [collection(tmp_path, sha256="b" * 64), collection(tmp_path, index="HNSW")]
    assert len({first.name, *(other.name for other in others)}) == 3
    for other in others:
        with pytest.raises(ArtifactError, match=r"retro_[0-9a-f]{16} at .*milvus\.db: is missing"):
            other.search(np.eye(1, DIMENSION, dtype=np.float32), 3, RowSet.of(range(ROWS)))


@installed
@pytest.mark.parametrize("index", ["IVF_FLAT", "IVF_SQ8", "HNSW"])
def test_approximate_types_find_most_neighbors(index: str, tmp_path: Path) -> None:
    made = collection(tmp_path, index=index)
    made.fill(vectors())
    queries = vectors()[:40].astype(np.float32)
    ids, _ = made.search(queries, 10, RowSet.of(range(ROWS)))
    true = np.argsort(-(queries @ vectors().astype(np.float32).T), axis=1)[:, :10]
    assert (true[:, :, None] == ids[:, None, :]).any(axis=2).mean() > 0.9


@installed
def test_no_more_hits_are_asked_for_than_milvus_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST_HITS == 16_384
    monkeypatch.setattr("retro.index.milvus.MOST_HITS", 5)
    made = collection(tmp_path)
    made.fill(vectors())
    asked: list[int] = []
    search = made.client.search

    def searched(name: str, limit: int, **settings: Any) -> Any:
        asked.append(limit)
        return search(name, limit=limit, **settings)

    monkeypatch.setattr(made.client, "search", searched)
    ids, scores = made.search(np.eye(2, DIMENSION, dtype=np.float32), 8, RowSet.of(range(ROWS)))
    assert max(asked) == 5
    assert (ids[:, :5] >= 0).all()
    assert (ids[:, 5:] == -1).all()
    assert (scores[:, 5:] == -np.inf).all()


@installed
def test_a_folder_that_milvus_lite_cannot_use_is_named(tmp_path: Path) -> None:
    (tmp_path / DATABASE).write_text("no folder")
    with pytest.raises(ArtifactError, match=r"milvus\.db: cannot be used by Milvus Lite .* one process at a time"):
        collection(tmp_path).fill(vectors())


@installed
def test_a_server_that_does_not_answer_is_named_and_its_token_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "hush")
    unreachable = collection(tmp_path, uri="http://127.0.0.1:1", timeout_s=1)
    with pytest.raises(DependencyError, match=r"milvus: the server at http://127\.0\.0\.1:1 did not do") as caught:
        unreachable.fill(vectors())
    written = capfd.readouterr()
    assert "hush" not in f"{caught.value}{written.out}{written.err}{unreachable}"


@installed
def test_a_server_is_filled_and_asked_with_the_same_code(tmp_path: Path) -> None:
    server = importlib.import_module("milvus_lite.adapter.grpc.server")
    running, database, port = server.start_server_in_thread(str(tmp_path / "elsewhere"))
    try:
        made = collection(tmp_path, uri=f"http://127.0.0.1:{port}")
        made.fill(vectors())
        queries = vectors()[:5].astype(np.float32)
        ids, scores = made.search(queries, 1, RowSet.of(range(ROWS)))
        assert ids.tolist() == [[0], [1], [2], [3], [4]]
        assert np.allclose(scores, 1, atol=1e-2)
        assert not (tmp_path / DATABASE).exists()
    finally:
        made.client.close()
        running.stop(0)
        database.close()


@installed
def test_a_collection_that_is_gone_is_filled_again_from_the_embeddings(
    corpus_dir: Path, db_dir: Path, tmp_path: Path
) -> None:
    config = index_config(backend="milvus")
    made = build.run(config, corpus_dir, db_dir, tmp_path / "index")
    shutil.copytree(tmp_path / "index", tmp_path / "moved", ignore=shutil.ignore_patterns(DATABASE))
    db = ChunkDatabase.open(db_dir, Corpus.open(corpus_dir))
    queries = map_column(tmp_path / "index" / "embeddings.h5", "embeddings", "")[:9].astype(np.float32)
    with pytest.raises(ArtifactError, match=r"is missing\. Run `retro index` again; it fills the collection"):
        open_searcher(tmp_path / "moved", db).search(queries, 3)
    assert build.run(config, corpus_dir, db_dir, tmp_path / "moved") == made
    found, wanted = (open_searcher(tmp_path / name, db).search(queries, 3) for name in ("moved", "index"))
    assert np.array_equal(found[0], wanted[0])


@installed
def test_the_report_says_what_an_approximate_collection_finds(corpus_dir: Path, db_dir: Path, tmp_path: Path) -> None:
    reports = {}
    for index in ("FLAT", "IVF_SQ8"):
        config = index_config(backend="milvus", milvus={"index": index}, nprobe=1, recall_queries=40)
        build.run(config, corpus_dir, db_dir, tmp_path / index)
        reports[index] = read_json(tmp_path / index / "report.json", "")
    assert (reports["FLAT"]["exact"], reports["FLAT"]["recall_at_10"]) == (True, 1.0)
    assert reports["IVF_SQ8"]["exact"] is False
    # One of 60 lists is looked into.
    assert 0 < reports["IVF_SQ8"]["recall_at_10"] < 0.9


def test_a_server_that_moved_is_named_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MilvusServer.of(MilvusConfig(), tmp_path).uri == str(tmp_path / DATABASE)
    monkeypatch.setenv(URI_VARIABLE, "http://new:19530")
    moved = MilvusServer.of(MilvusConfig(uri="http://old:19530"), tmp_path)
    assert (moved.uri, moved.lite) == ("http://new:19530", False)


@pytest.mark.parametrize("uri", ["http://me:secret@host:19530", "host:19530", "milvus.db"])
def test_an_address_with_a_password_or_without_a_scheme_is_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"MilvusConfig\.uri = .*: needs an address as http://host:19530") as caught:
        MilvusConfig(uri=uri)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("setting", "value"), [("keep_embeddings", False), ("shards", 2)])
def test_settings_that_milvus_cannot_work_with_are_refused(setting: str, value: object) -> None:
    with pytest.raises(
        ConfigError, match=rf"IndexConfig\.{setting} = {value}: needs to be \S+ with backend = 'milvus'"
    ):
        IndexConfig(backend="milvus", **{setting: value})


def without(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """Have `module` look as if it were not installed."""
    found: Callable[..., Any] = importlib.util.find_spec
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == module else found(name, *rest))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "pymilvus")
    with pytest.raises(DependencyError, match=r"pymilvus: cannot be imported .*pip install .instruct-retro\[milvus\]"):
        load_pymilvus()


@installed
def test_missing_milvus_lite_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "milvus_lite")
    with pytest.raises(DependencyError, match=r"milvus-lite: is not installed\. .* or set index\.milvus\.uri"):
        collection(tmp_path).fill(vectors())
