from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from retro.common.artifacts import read_manifest, write_manifest
from retro.common.errors import ArtifactError, ConfigError
from retro.common.files import read_json
from retro.common.hdf5 import map_column
from retro.common.launcher import Worker
from retro.corpus.reader import Corpus
from retro.db import build as db_build
from retro.db.config import DbConfig
from retro.db.reader import ChunkDatabase
from retro.index.build import run
from retro.index.embeddings import chunk_texts, sample_rows
from retro.index.searcher import Searcher, open_searcher
from tests.corpus.texts import artifact_bytes
from tests.db.road import make_corpus
from tests.db.stops import Stopped, flip_byte, full_disk, killed, stopped_at_rename, stops_everywhere
from tests.index.road import INDEX, index_config


def test_the_index_holds_every_chunk_in_row_order(index_dir: Path, db: ChunkDatabase, searcher: Searcher) -> None:
    vectors = map_column(index_dir / "embeddings.h5", "embeddings", "")
    assert vectors.shape == (db.rows, 64)
    assert vectors.dtype == np.float16
    texts = chunk_texts(db, np.arange(db.rows))
    assert np.array_equal(vectors, searcher.embedder.embed_queries(texts).astype(np.float16))
    ids, scores = searcher.search(vectors[:50].astype(np.float32), 1)
    # The nearest chunk is the chunk itself, or one with the same text.
    assert [texts[row] for row in ids[:, 0]] == texts[:50]
    assert scores[:, 0] == pytest.approx(1, abs=1e-2)
    assert read_manifest(index_dir, "index").counts == {"rows": db.rows, "dimension": 64, "faiss": "Flat"}


def test_the_report_says_what_was_done(index_dir: Path, db: ChunkDatabase) -> None:
    report = read_json(index_dir / "report.json", "")
    assert (report["chunks"], report["chunks_embedded"], report["exact"]) == (db.rows, db.rows, True)
    assert (report["recall_at_10"], report["training_vectors"], report["embedder"]["kind"]) == (1.0, 0, "hashing")


def test_an_approximate_index_reports_its_recall(corpus_dir: Path, db_dir: Path, tmp_path: Path) -> None:
    run(index_config(faiss="IVF4,SQ8", nprobe=4, train_sample=200), corpus_dir, db_dir, tmp_path / "all")
    run(index_config(faiss="IVF4,SQ8", nprobe=1, train_sample=200), corpus_dir, db_dir, tmp_path / "one")
    run(index_config(faiss="IVF4,SQ8", recall_queries=0), corpus_dir, db_dir, tmp_path / "none")
    every, one, none = (read_json(tmp_path / name / "report.json", "") for name in ("all", "one", "none"))
    # All lists probed leaves only the rounding of SQ8.
    assert 0.9 < every["recall_at_10"] <= 1
    assert 0 < one["recall_at_10"] < every["recall_at_10"]
    assert every["training_vectors"] == 200
    assert none["recall_at_10"] == -1


def test_a_stop_at_any_rename_costs_nothing_but_time(
    corpus_dir: Path, db_dir: Path, index_dir: Path, tmp_path: Path
) -> None:
    whole, stops = artifact_bytes(index_dir), 0
    for out in stops_everywhere(lambda out: run(INDEX, corpus_dir, db_dir, out), tmp_path):
        run(INDEX, corpus_dir, db_dir, out)
        assert artifact_bytes(out) == whole, out.name
        stops += 1
    blocks = -(-read_manifest(db_dir, "db").counts["rows"] // 150)
    # Two for each block, hashing.h5, plan, checksums, embeddings.h5, index.faiss, search.json, report, embedder.json,
    # manifest.
    assert stops == 2 * (blocks + 9)


def test_a_killed_run_goes_on_and_repeats_at_most_one_block(
    corpus_dir: Path, db_dir: Path, index_dir: Path, tmp_path: Path
) -> None:
    code = """
import os, signal, sys
from pathlib import Path
from retro.common.blocks import BlockStore
from retro.index.build import run
from tests.index.road import INDEX
write = BlockStore.write
def stop(self, number, block):
    if number == 1:
        (self.directory / f".000001.h5.{os.getpid()}.tmp").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, number, block)
BlockStore.write = stop
run(INDEX, *map(Path, sys.argv[1:]))
"""
    assert killed(code, corpus_dir, db_dir, tmp_path) == -9
    assert {path.name for path in (tmp_path / "blocks").iterdir()} > {"000000.h5"}
    run(INDEX, corpus_dir, db_dir, tmp_path)
    rows = read_manifest(db_dir, "db").counts["rows"]
    assert read_json(tmp_path / "report.json", "")["chunks_embedded"] == rows - 150
    assert artifact_bytes(tmp_path) == artifact_bytes(index_dir)


def test_a_flipped_byte_in_a_block_is_found(
    corpus_dir: Path, db_dir: Path, index_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Stopped), stopped_at_rename(6):
        run(INDEX, corpus_dir, db_dir, tmp_path)
    flip_byte(tmp_path / "blocks" / "000000.h5", "embeddings")
    with caplog.at_level(logging.WARNING):
        run(INDEX, corpus_dir, db_dir, tmp_path)
    assert "000000.h5 has changed bytes" in caplog.text
    assert artifact_bytes(tmp_path) == artifact_bytes(index_dir)


@pytest.mark.parametrize("after", [3, 5, 6], ids=["block", "embeddings", "index"])
def test_a_full_disk_is_one_error_and_the_run_goes_on_later(
    after: int, corpus_dir: Path, db_dir: Path, index_dir: Path, tmp_path: Path
) -> None:
    with full_disk(after), pytest.raises(ArtifactError, match="the disk is full"):
        run(INDEX, corpus_dir, db_dir, tmp_path)
    kept = sorted(path.name for path in (tmp_path / "blocks").iterdir())
    assert kept == [f"00000{number}.h5" for number in range(len(kept))]
    run(INDEX, corpus_dir, db_dir, tmp_path)
    assert artifact_bytes(tmp_path) == artifact_bytes(index_dir)


def test_two_ranks_make_the_same_index_as_one(corpus_dir: Path, db_dir: Path, index_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(Stopped), stopped_at_rename(6):
        run(INDEX, corpus_dir, db_dir, tmp_path, worker=Worker(1, 2))
    assert [path.name for path in (tmp_path / "blocks").iterdir()] == ["000001.h5"]
    run(INDEX, corpus_dir, db_dir, tmp_path, worker=Worker(0, 2))
    assert artifact_bytes(tmp_path) == artifact_bytes(index_dir)


def test_a_finished_index_is_not_built_again(corpus_dir: Path, db_dir: Path, index_dir: Path) -> None:
    before = (index_dir / "index.faiss").stat().st_mtime_ns
    assert run(INDEX, corpus_dir, db_dir, index_dir) == read_manifest(index_dir, "index")
    assert (index_dir / "index.faiss").stat().st_mtime_ns == before


def test_an_index_made_before_a_setting_existed_is_accepted_under_its_default(
    corpus_dir: Path, db_dir: Path, index_dir: Path, tmp_path: Path
) -> None:
    shutil.copytree(index_dir, tmp_path / "index")
    manifest = read_manifest(tmp_path / "index", "index")
    older = {name: value for name, value in manifest.config.items() if name != "shards"}
    write_manifest(tmp_path / "index", replace(manifest, config=older))
    assert run(INDEX, corpus_dir, db_dir, tmp_path / "index").config == older
    with pytest.raises(ArtifactError, match="shards was 1, now 2"):
        run(index_config(shards=2), corpus_dir, db_dir, tmp_path / "index")


def test_other_settings_are_refused_by_name(corpus_dir: Path, db_dir: Path, index_dir: Path) -> None:
    with pytest.raises(ArtifactError, match=r"embedder\.dimension was 64, now 32"):
        run(index_config(embedder={"dimension": 32}), corpus_dir, db_dir, index_dir)


def test_an_index_of_another_chunk_length_is_refused(corpus_dir: Path, index_dir: Path, tmp_path: Path) -> None:
    db_build.run(DbConfig(chunk_length=5), corpus_dir, tmp_path)
    with pytest.raises(ArtifactError, match="was made from db"):
        run(INDEX, corpus_dir, tmp_path, index_dir)
    with pytest.raises(ArtifactError, match="was made from db"):
        open_searcher(index_dir, ChunkDatabase.open(tmp_path, Corpus.open(corpus_dir)))


def test_a_database_of_another_corpus_is_refused(db_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="was made from corpus"):
        run(INDEX, make_corpus(tmp_path, seed=9), db_dir, tmp_path / "3_index")


def test_too_few_training_vectors_are_said_before_anything_is_embedded(
    corpus_dir: Path, db_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"index\.faiss = 'IVF5000,Flat': needs at least 5000 training vectors"):
        run(index_config(faiss="IVF5000,Flat"), corpus_dir, db_dir, tmp_path)
    assert not (tmp_path / "blocks").exists()


def test_embeddings_are_not_kept_when_not_wanted(corpus_dir: Path, db_dir: Path, tmp_path: Path) -> None:
    run(index_config(keep_embeddings=False), corpus_dir, db_dir, tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [
        "blocks.json",
        "embedder.json",
        "hashing.h5",
        "index.faiss",
        "manifest.json",
        "report.json",
        "search.json",
    ]


def test_samples_are_uniform_sorted_and_drawn_once() -> None:
    assert sample_rows(range(5, 8), 10, 0).tolist() == [5, 6, 7]
    drawn = sample_rows(range(100, 1100), 200, 3)
    assert len(set(drawn.tolist())) == 200
    assert drawn.tolist() == sorted(drawn.tolist()) == sample_rows(range(100, 1100), 200, 3).tolist()
    assert 100 <= drawn.min() < 150
    assert 1050 < drawn.max() < 1100
