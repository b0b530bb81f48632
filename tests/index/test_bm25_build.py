from __future__ import annotations

import json
import multiprocessing
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retro.common.artifacts import MANIFEST, read_manifest
from retro.common.errors import ArtifactError, DataError, DependencyError
from retro.common.files import read_json
from retro.common.launcher import Worker
from retro.corpus.reader import Corpus
from retro.db.reader import ChunkDatabase
from retro.index import build as index_build
from retro.index.bm25 import build
from retro.index.bm25.build import run
from retro.index.bm25.reader import Bm25Index
from retro.index.config import Bm25Config, SearchConfig
from retro.index.search import open_search
from retro.index.searcher import open_searcher
from tests.corpus.texts import artifact_bytes
from tests.db.stops import flip_byte, full_disk, stops_everywhere
from tests.index.road import index_config

pytest.importorskip("bm25s")
CONFIG = Bm25Config(chunks_per_block=70)


@pytest.fixture(scope="module")
def words_dir(corpus_dir: Path, db_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("words")
    run(CONFIG, corpus_dir, db_dir, out)
    return out


def test_a_chunk_is_found_by_its_own_words(words_dir: Path, db: ChunkDatabase) -> None:
    index = Bm25Index.open(words_dir, db)
    texts = [db.text(row) for row in range(db.rows)]
    ids, _ = index.search(index.queries(texts), db.rows, db.all_rows)
    # Copies may stand before it; nothing scores higher but what repeats its words.
    assert all(row in ids[row, :20] for row in range(db.rows))
    report = read_json(words_dir / "report.json", "")
    assert report["chunks"] == report["chunks_counted"] == db.rows
    assert report["pairs"] == len(np.load(words_dir / "indices.csc.index.npy"))
    assert not (words_dir / "blocks").exists()


def test_the_size_of_blocks_changes_nothing(words_dir: Path, corpus_dir: Path, db_dir: Path, tmp_path: Path) -> None:
    run(Bm25Config(chunks_per_block=100_000), corpus_dir, db_dir, tmp_path)
    assert artifact_bytes(tmp_path) == artifact_bytes(words_dir)


def test_a_stop_anywhere_costs_nothing_but_time(
    words_dir: Path, corpus_dir: Path, db_dir: Path, tmp_path: Path
) -> None:
    for stopped in stops_everywhere(lambda out: run(CONFIG, corpus_dir, db_dir, out), tmp_path):
        run(CONFIG, corpus_dir, db_dir, stopped)
        assert artifact_bytes(stopped) == artifact_bytes(words_dir)
    assert len(list(tmp_path.iterdir())) > 10


def test_blocks_that_are_there_are_not_counted_again(
    words_dir: Path, corpus_dir: Path, db_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[range] = []
    count = build._count

    def noted(db: ChunkDatabase, rows: range, advance: Any) -> Any:
        if len(counted) == 2:
            raise KeyboardInterrupt
        counted.append(rows)
        return count(db, rows, advance)

    def again(db: ChunkDatabase, rows: range, advance: Any) -> Any:
        counted.append(rows)
        return count(db, rows, advance)

    monkeypatch.setattr(build, "_count", noted)
    with pytest.raises(KeyboardInterrupt):
        run(CONFIG, corpus_dir, db_dir, tmp_path)
    # One of the two is damaged, and is counted again beside those that are missing.
    flip_byte(tmp_path / "blocks" / "000001.h5", "count_P")
    first = counted.copy()
    counted.clear()
    monkeypatch.setattr(build, "_count", again)
    run(CONFIG, corpus_dir, db_dir, tmp_path)
    assert first[0] not in counted
    assert first[1] in counted
    assert artifact_bytes(tmp_path) == artifact_bytes(words_dir)


def _work(rank: int, corpus_dir: Path, db_dir: Path, out: Path) -> None:
    run(CONFIG, corpus_dir, db_dir, out, worker=Worker(rank, 2))


def test_two_workers_make_the_bytes_of_one(words_dir: Path, corpus_dir: Path, db_dir: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_work, args=(rank, corpus_dir, db_dir, tmp_path)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert artifact_bytes(tmp_path) == artifact_bytes(words_dir)


def test_finished_work_is_found_done_and_other_settings_are_refused(
    words_dir: Path, corpus_dir: Path, db_dir: Path
) -> None:
    before = read_manifest(words_dir, "index")
    assert run(CONFIG, corpus_dir, db_dir, words_dir) == before
    with pytest.raises(ArtifactError, match=r"k1 was 0\.9, now 1\.5"):
        run(Bm25Config(k1=1.5), corpus_dir, db_dir, words_dir)


def test_a_damaged_file_is_found_when_it_is_opened(
    words_dir: Path, corpus_dir: Path, db_dir: Path, db: ChunkDatabase, tmp_path: Path
) -> None:
    run(CONFIG, corpus_dir, db_dir, tmp_path)
    flip_byte(tmp_path / "data.csc.index.npy")
    with pytest.raises(ArtifactError, match="bytes changed on disk"):
        Bm25Index.open(tmp_path, db)


def test_a_file_that_is_no_array_is_refused(db_dir: Path, corpus_dir: Path, db: ChunkDatabase, tmp_path: Path) -> None:
    run(CONFIG, corpus_dir, db_dir, tmp_path)
    index = Bm25Index.open(tmp_path, db)
    index.manifest.counts["words"] += 1
    with pytest.raises(ArtifactError, match="needed uint64"):
        index.queries(["word"])


def test_an_index_of_another_database_is_refused(words_dir: Path, db: ChunkDatabase, tmp_path: Path) -> None:
    other = replace(db, manifest=replace(db.manifest, counts=db.manifest.counts | {"rows": 1}))
    with pytest.raises(ArtifactError, match=r"was made from db .* but the db here is"):
        Bm25Index.open(words_dir, other)


def test_a_full_disk_is_said(corpus_dir: Path, db_dir: Path, tmp_path: Path) -> None:
    with full_disk(2), pytest.raises(ArtifactError, match="disk is full"):
        run(CONFIG, corpus_dir, db_dir, tmp_path)


def test_a_missing_package_is_named_with_its_extra(
    corpus_dir: Path, db_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(DependencyError) as caught:
        run(CONFIG, corpus_dir, db_dir, tmp_path)
    assert 'pip install "instruct-retro[bm25]"' in str(caught.value)
    assert "neighbors.source=dense" in str(caught.value)


def test_a_database_without_words_is_refused(
    corpus_dir: Path, db_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "texts_of", lambda tokenizer, tokens, mask: ["..."] * len(tokens))
    with pytest.raises(DataError, match="no chunk with a word"):
        run(CONFIG, corpus_dir, db_dir, tmp_path)


def test_without_an_embedder_words_are_searched_and_vectors_refused(
    words_dir: Path, corpus_dir: Path, db_dir: Path, db: ChunkDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_build, "make_embedder", lambda *args, **named: pytest.fail("an embedder was made"))
    config = index_config(embedder={"kind": "bm25"})
    made = index_build.run(config, corpus_dir, db_dir, tmp_path)
    assert made == index_build.run(config, corpus_dir, db_dir, tmp_path)
    assert made.files == {}
    run(CONFIG, corpus_dir, db_dir, tmp_path / "bm25")
    search = open_search(SearchConfig(source="bm25"), tmp_path, db)
    assert search.search(search.prepare([db.text(0)]), 1).ids_QC.shape == (1, 1)
    assert set(search.parents) == {"bm25"}
    for refused in (SearchConfig(), SearchConfig(source="hybrid")):
        with pytest.raises(ArtifactError, match=r"holds no vectors.*search\.source=bm25"):
            open_search(refused, tmp_path, db)
    with pytest.raises(ArtifactError, match="holds no vectors"):
        open_searcher(tmp_path, db)


def test_an_index_that_was_never_built_is_named(index_dir: Path, db: ChunkDatabase, tmp_path: Path) -> None:
    index_build.run(index_config(), index_dir.parent / "1_corpus", index_dir.parent / "2_db", tmp_path)
    with pytest.raises(
        ArtifactError, match=r"bm25/manifest\.json: is missing: this database has no BM25 index\. Run `retro index`"
    ):
        open_search(SearchConfig(source="hybrid"), tmp_path, db)


def test_the_manifest_names_the_database_and_every_file(words_dir: Path, db: ChunkDatabase, corpus: Corpus) -> None:
    data = json.loads((words_dir / MANIFEST).read_text(encoding="utf-8"))
    assert data["parents"] == {"db": db.manifest.fingerprint}
    assert set(data["files"]) == {path.name for path in words_dir.glob("*.npy")}
    assert "chunks_per_block" not in data["config"]
