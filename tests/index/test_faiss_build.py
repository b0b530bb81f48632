"""The index stage where workers encode side by side: RaBitQ with a refine step, and lists on disk."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retro.common.artifacts import describe_files, read_manifest
from retro.common.errors import ArtifactError, ConfigError
from retro.common.files import read_json
from retro.common.launcher import Worker
from retro.db.reader import ChunkDatabase
from retro.index.build import run
from retro.index.embeddings import sample_rows
from retro.index.faiss_index import fill_index, save_index
from retro.index.index_choice import create_index
from retro.index.rerank import map_vectors, pair_scores
from retro.index.searcher import open_searcher
from retro.index.vector_index import search_settings
from tests.corpus.texts import artifact_bytes
from tests.db.stops import Stopped, flip_byte, full_disk, stopped_at_rename
from tests.index.road import index_config

RABITQ = "RR64,IVF4_HNSW8,RaBitQ"


def coded(**changes: Any) -> Any:
    return index_config(**({"faiss": RABITQ, "recall_queries": 40, "target_recall": 0.8} | changes))


@pytest.fixture(scope="module")
def coded_dir(corpus_dir: Path, db_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("coded") / "3_index"
    run(coded(), corpus_dir, db_dir, out)
    return out


def test_candidates_of_codes_are_ranked_by_the_vectors_on_disk(coded_dir: Path, db: ChunkDatabase) -> None:
    searcher, vectors = open_searcher(coded_dir, db), map_vectors(coded_dir / "embeddings.h5")
    queries = vectors[-5:].astype(np.float32)
    ids, scores = searcher.search(queries, 6, db.retrievable)
    assert np.array_equal(scores, pair_scores(vectors, queries, ids))
    assert (np.diff(scores, axis=1) <= 0).all()
    assert db.retrievable.contains(ids).all()


def test_what_was_tuned_and_measured_is_kept(coded_dir: Path, db: ChunkDatabase) -> None:
    report, search = read_json(coded_dir / "report.json", ""), read_json(coded_dir / "search.json", "")
    assert search["rerank"] is True
    assert (search["reached"], search["target_recall"], search["queries"]) == (True, 0.8, 40)
    assert report["search"] == search["settings"]
    assert report["search"]["refine_factor"] >= 2
    assert [report[f"recall_at_{k}"] for k in (2, 10, 20)] == [search["recall"][k] for k in ("2", "10", "20")]
    assert report["recall_at_10"] > 0.7
    assert report["bytes_per_vector"] == round((coded_dir / "index.faiss").stat().st_size / db.rows, 2)
    manifest = read_manifest(coded_dir, "index")
    assert "search.json" in manifest.files
    # Times are in them, so that the artifact's bytes do not hang on them.
    assert not {"recall_curve.json", "recall_curve.png"} & set(manifest.files)
    assert (coded_dir / "recall_curve.png").exists()
    curve = read_json(coded_dir / "recall_curve.json", "")
    assert curve["points"][curve["chosen"]]["settings"] == search["settings"]


def test_workers_make_the_index_that_one_process_makes_of_a_uniform_sample(
    corpus_dir: Path, db_dir: Path, db: ChunkDatabase, tmp_path: Path
) -> None:
    run(coded(train_sample=100, recall_queries=0), corpus_dir, db_dir, tmp_path)
    vectors, rows = map_vectors(tmp_path / "embeddings.h5"), sample_rows(db.rows_of(0), 100, coded().seed)
    assert not np.array_equal(rows, np.arange(100))
    index = create_index(RABITQ, 64, 100)
    fill_index(index, RABITQ, vectors, rows, reproducible=True)
    save_index(index, tmp_path / "serial.faiss")
    assert (tmp_path / "index.faiss").read_bytes() == (tmp_path / "serial.faiss").read_bytes()


def test_nothing_is_left_but_the_artifact(coded_dir: Path) -> None:
    beside = {"manifest.json", "report.json", "blocks.json", ".verified.json", "recall_curve.json", "recall_curve.png"}
    names = {path.name for path in coded_dir.iterdir()}
    assert names - beside == set(read_manifest(coded_dir, "index").files)


def test_a_stop_while_training_encoding_or_joining_costs_nothing_but_time(
    corpus_dir: Path, db_dir: Path, coded_dir: Path, tmp_path: Path
) -> None:
    whole = artifact_bytes(coded_dir)
    # Two stops for each file: hashing.h5, plan and blocks, plan and trained, plan and codes, and what is joined.
    stops = 0
    for number in range(9, 200, 3):
        out = tmp_path / f"stopped{number}"
        try:
            with stopped_at_rename(number):
                run(coded(), corpus_dir, db_dir, out)
            break
        except Stopped:
            run(coded(), corpus_dir, db_dir, out)
        assert artifact_bytes(out) == whole, out.name
        stops += 1
    assert stops > 5


def test_two_workers_make_the_same_index_as_one(
    corpus_dir: Path, db_dir: Path, coded_dir: Path, tmp_path: Path
) -> None:
    blocks = -(-read_manifest(db_dir, "db").counts["rows"] // 150)
    # hashing.h5, plan and blocks, plan and trained, plan and the first of the codes.
    with pytest.raises(Stopped), stopped_at_rename(2 * (blocks + 6)):
        run(coded(), corpus_dir, db_dir, tmp_path, worker=Worker(1, 2))
    assert [path.name for path in (tmp_path / "codes").iterdir()] == ["000001.h5"]
    run(coded(), corpus_dir, db_dir, tmp_path, worker=Worker(0, 2))
    assert artifact_bytes(tmp_path) == artifact_bytes(coded_dir)


@pytest.mark.parametrize(("folder", "dataset"), [("trained", "index"), ("codes", "codes")])
def test_a_flipped_byte_in_what_is_stored_on_the_way_is_found(
    folder: str,
    dataset: str,
    corpus_dir: Path,
    db_dir: Path,
    coded_dir: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    blocks = -(-read_manifest(db_dir, "db").counts["rows"] // 150)
    with pytest.raises(Stopped), stopped_at_rename(2 * (blocks + 6)):
        run(coded(), corpus_dir, db_dir, tmp_path)
    flip_byte(tmp_path / folder / "000000.h5", dataset)
    with caplog.at_level(logging.WARNING):
        run(coded(), corpus_dir, db_dir, tmp_path)
    assert f"{folder}/000000.h5 has changed bytes" in caplog.text
    assert artifact_bytes(tmp_path) == artifact_bytes(coded_dir)


def test_codes_of_other_settings_are_made_again(
    corpus_dir: Path, db_dir: Path, coded_dir: Path, tmp_path: Path
) -> None:
    blocks = -(-read_manifest(db_dir, "db").counts["rows"] // 150)
    with pytest.raises(Stopped), stopped_at_rename(2 * (blocks + 6)):
        run(coded(train_sample=100), corpus_dir, db_dir, tmp_path)
    run(coded(), corpus_dir, db_dir, tmp_path)
    assert artifact_bytes(tmp_path) == artifact_bytes(coded_dir)


def test_lists_on_disk_give_the_same_hits(
    corpus_dir: Path, db_dir: Path, db: ChunkDatabase, coded_dir: Path, tmp_path: Path
) -> None:
    run(coded(on_disk=True), corpus_dir, db_dir, tmp_path / "a")
    files = read_manifest(tmp_path / "a", "index").files
    assert "index.ivfdata" in files
    assert files["index.faiss"]["bytes"] < read_manifest(coded_dir, "index").files["index.faiss"]["bytes"]
    (tmp_path / "a").rename(tmp_path / "moved")
    moved, in_memory = open_searcher(tmp_path / "moved", db), open_searcher(coded_dir, db)
    queries = map_vectors(coded_dir / "embeddings.h5")[:20].astype(np.float32)
    found, wanted = moved.search(queries, 5), in_memory.search(queries, 5)
    assert np.array_equal(found[0], wanted[0])
    assert np.array_equal(found[1], wanted[1])
    report = read_json(tmp_path / "moved" / "search.json", "")
    # 8 bytes of code and of two numbers to correct it by, 8 of id, and room that lists grow by.
    assert report["bytes_per_vector_on_disk"] >= 24


def test_a_disk_that_is_full_while_codes_are_written_is_one_error(
    corpus_dir: Path, db_dir: Path, coded_dir: Path, tmp_path: Path
) -> None:
    blocks = -(-read_manifest(db_dir, "db").counts["rows"] // 150)
    with full_disk(blocks + 4), pytest.raises(ArtifactError, match="the disk is full"):
        run(coded(), corpus_dir, db_dir, tmp_path)
    run(coded(), corpus_dir, db_dir, tmp_path)
    assert artifact_bytes(tmp_path) == artifact_bytes(coded_dir)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"faiss": "HNSW8", "on_disk": True}, r"on_disk = True: needs inverted lists .* index\.faiss is 'HNSW8'"),
        ({"faiss": "IVF4,PQ4x4fs", "on_disk": True}, "on_disk = True: needs inverted lists"),
        ({"faiss": RABITQ, "keep_embeddings": False}, f"keep_embeddings = False: needs to be true for {RABITQ}"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_embedded(
    changes: dict[str, Any], message: str, corpus_dir: Path, db_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(index_config(**changes), corpus_dir, db_dir, tmp_path)
    assert not (tmp_path / "blocks").exists()


def test_a_low_recall_is_warned_of(
    corpus_dir: Path, db_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        run(index_config(faiss="IVF4,PQ2x4", recall_queries=40), corpus_dir, db_dir, tmp_path)
    recall = read_json(tmp_path / "report.json", "")["recall_at_10"]
    assert recall < 0.9
    assert f"IVF4,PQ2x4 misses {100 * (1 - recall):.0f} % of the ten nearest" in caplog.text
    assert "no setting tried reaches target_recall 0.95 with IVF4,PQ2x4" in caplog.text


def test_an_index_with_nothing_to_add_apart_says_who_fills_it(
    corpus_dir: Path, db_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        run(index_config(faiss="HNSW8", recall_queries=0), corpus_dir, db_dir, tmp_path)
    assert "HNSW8 is trained and filled by one worker" in caplog.text
    assert "its recall was not measured" in caplog.text
    assert read_json(tmp_path / "search.json", "")["recall"] == {}


def test_settings_that_are_given_are_not_tuned(corpus_dir: Path, db_dir: Path, tmp_path: Path) -> None:
    run(coded(nprobe=3, ef_search=7, refine_factor=5), corpus_dir, db_dir, tmp_path)
    settings = read_json(tmp_path / "search.json", "")["settings"]
    assert settings == {"nprobe": 3, "ef_search": 7, "refine_factor": 5}


def test_a_damaged_description_of_the_search_is_named(coded_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "search.json").write_text('{"settings": {"nprobe": 3}}', encoding="utf-8")
    manifest = read_manifest(coded_dir, "index")
    manifest.files.update(describe_files(tmp_path, ["search.json"]))
    with pytest.raises(ArtifactError, match=r"search\.json: does not say how to search"):
        search_settings(tmp_path, manifest)


def test_an_index_without_a_description_is_searched_as_its_config_says(coded_dir: Path, tmp_path: Path) -> None:
    manifest = read_manifest(coded_dir, "index")
    del manifest.files["search.json"]
    settings, ranked = search_settings(tmp_path, manifest)
    assert (settings.nprobe, settings.ef_search, settings.refine_factor, ranked) == (64, 128, 10, False)
