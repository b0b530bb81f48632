from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from retro.common.artifacts import MANIFEST, read_manifest
from retro.common.errors import ArtifactError, ConfigError, DataError
from retro.common.files import read_json
from retro.common.launcher import Worker
from retro.corpus import build as corpus_build
from retro.corpus.reader import Corpus, TokenStream
from retro.db import build as db_build
from retro.db.reader import ChunkDatabase
from retro.index import build as index_build
from retro.index.embeddings import texts_of
from retro.index.searcher import Searcher
from retro.neighbors import query
from retro.neighbors.build import run
from retro.neighbors.config import FilterConfig, NeighborsConfig
from retro.neighbors.dedup import CopyFilter, greatest_overlap
from retro.neighbors.query import StreamQueries
from retro.neighbors.reader import Neighbors
from tests.corpus.texts import artifact_bytes, settings, write_stories
from tests.db.road import CHUNK, DB
from tests.db.stops import Stopped, flip_byte, full_disk, killed, stopped_at_rename, stops_everywhere
from tests.index.road import INDEX, index_config
from tests.neighbors.road import NEIGHBORS, neighbors_config

Dirs = tuple[Path, Path, Path]


@pytest.fixture(scope="module")
def dirs(corpus_dir: Path, db_dir: Path, index_dir: Path) -> Dirs:
    return corpus_dir, db_dir, index_dir


def naive_neighbors(searcher: Searcher, source: int, split: int, saved: int) -> list[list[int]]:
    """By plain loops: rank all train rows, leave out documents that chunk u and the next one touch."""
    db = searcher.db
    corpus = db.corpus
    stream = TokenStream(corpus, source, split, CHUNK)
    bounds = [0]
    for document in stream.documents.tolist():
        starts = corpus.token_file(source).document_starts
        bounds.append(bounds[-1] + int(starts[document + 1] - starts[document]))
    found = []
    for chunk in range(stream.chunks):
        tokens = stream.tokens([chunk * CHUNK], CHUNK)
        text = texts_of(corpus.tokenizer, tokens, np.ones(tokens.shape, dtype=bool))
        ids, _ = searcher.search(searcher.embedder.embed_queries(text), len(db.retrievable), db.retrievable)
        first, stop = chunk * CHUNK, (chunk + 2) * CHUNK
        own = {
            int(stream.documents[place])
            for place in range(len(stream.documents))
            if bounds[place] < stop and bounds[place + 1] > first
        }
        kept = [
            int(row)
            for row in ids[0]
            if not (db.columns["source"][row] == source and int(db.columns["document"][row]) in own)
        ]
        found.append(kept[:saved])
    return found


@pytest.mark.parametrize(("split", "source"), [(0, 0), (0, 1), (1, 0), (2, 1)])
def test_neighbors_are_those_of_a_plain_loop(
    split: int, source: int, neighbors_dir: Path, searcher: Searcher, corpus: Corpus
) -> None:
    neighbors = Neighbors.open(neighbors_dir, searcher.db, corpus)
    wanted = naive_neighbors(searcher, source, split, NEIGHBORS.saved)
    chunks = np.arange(neighbors.chunks(split, source))
    found = neighbors.of(split, source, chunks, NEIGHBORS.saved)
    scores = neighbors.scores(split, source, chunks, NEIGHBORS.saved)
    # Equal scores may come in any order, so scores are compared where rows differ.
    assert len(found) == len(wanted) > 0
    vectors = searcher.embedder.embed_queries([searcher.db.text(row) for row in range(searcher.db.rows)])
    same = found == np.array(wanted)
    assert same.mean() > 0.9
    tokens = TokenStream(corpus, source, split, CHUNK).tokens(chunks * CHUNK, CHUNK)
    queries = searcher.embedder.embed_queries(texts_of(corpus.tokenizer, tokens, np.ones(tokens.shape, dtype=bool)))
    products = np.einsum("qd,qkd->qk", queries, vectors[np.array(wanted)])
    assert np.allclose(scores, products, atol=5e-3)


def test_no_neighbor_comes_from_an_own_document_and_all_are_train_rows(
    neighbors_dir: Path, db: ChunkDatabase, corpus: Corpus
) -> None:
    neighbors = Neighbors.open(neighbors_dir, db, corpus)
    for split in range(3):
        for source in range(2):
            stream = TokenStream(corpus, source, split, CHUNK)
            ids = neighbors.of(split, source, np.arange(stream.chunks), NEIGHBORS.saved)
            assert ((ids >= 0) & (ids < db.rows_of(0).stop)).all()
            for chunk, row_ids in enumerate(ids):
                own = {(source << 40) | int(document) for document in stream.own_documents(chunk)}
                assert not own & set(db.document_key(row_ids).tolist())


def test_an_own_document_at_any_rank_is_dropped(
    dirs: Dirs, searcher: Searcher, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An index that puts rows of the query's own document at ranks 1 and 3, not at 0.
    db = searcher.db
    stream = TokenStream(corpus, 0, 0, CHUNK)
    own = int(stream.documents[0])
    own_rows = np.flatnonzero(db.document_key(np.arange(db.rows)) == own)[:2]
    last = int(stream.documents[-1])
    others = np.flatnonzero(db.document_key(np.arange(db.rows)) == last)[:2]
    order = np.array([[others[0], own_rows[0], others[1], own_rows[1]]])
    scores = np.array([[0.9, 0.8, 0.7, 0.6]], dtype=np.float32)
    monkeypatch.setattr(searcher, "search", lambda vectors, k, rows: (order[:, :k], scores[:, :k]))
    block = StreamQueries(searcher, stream).block(range(1), 2, 4, lambda count: None)
    assert block.arrays["neighbors"].tolist() == [others.tolist()]
    assert block.counts["own_document"] == 2


def test_too_few_candidates_are_searched_deeper(
    dirs: Dirs, neighbors_dir: Path, db: ChunkDatabase, corpus: Corpus, tmp_path: Path
) -> None:
    run(neighbors_config(searched=4), *dirs, tmp_path)
    shallow, deep = read_json(tmp_path / "report.json", ""), read_json(neighbors_dir / "report.json", "")
    assert shallow["searched_deeper"] > deep["searched_deeper"] > 0
    assert 0 < deep["own_document_share"] < 1
    found, wanted = (
        Neighbors.open(path, db, corpus).scores(0, 0, np.arange(20), 4) for path in (tmp_path, neighbors_dir)
    )
    assert np.allclose(found, wanted, atol=1e-6)


def test_a_database_with_too_few_other_chunks_says_so(dirs: Dirs, db: ChunkDatabase, tmp_path: Path) -> None:
    train = len(db.rows_of(0))
    run(neighbors_config(saved=train, searched=train), *dirs, tmp_path)
    report = read_json(tmp_path / "report.json", "")
    # Every train query loses its own documents; held-out queries keep all rows.
    assert report["fewer_than_saved"] == {"few_chunks": report["queries"]["train"], "few_found": 0, "no_text": 0}
    assert report["without_neighbors"] == 0


def test_an_approximate_index_looks_into_further_lists_where_one_holds_too_few(
    corpus_dir: Path, db_dir: Path, tmp_path: Path
) -> None:
    index_build.run(index_config(faiss="IVF20,Flat", nprobe=1), corpus_dir, db_dir, tmp_path / "3")
    run(neighbors_config(saved=40, searched=40), corpus_dir, db_dir, tmp_path / "3", tmp_path / "4")
    report = read_json(tmp_path / "4" / "report.json", "")
    assert report["fewer_than_saved"] == {"few_chunks": 0, "few_found": 0, "no_text": 0}


def test_chunks_without_any_neighbor_are_told_in_a_warning(
    corpus_dir: Path, db_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    index_build.run(index_config(faiss="IVF20,Flat", nprobe=1), corpus_dir, db_dir, tmp_path / "3")
    monkeypatch.setattr("retro.neighbors.query.own_document_mask", lambda found, *_: np.ones(found.shape, dtype=bool))
    run(neighbors_config(saved=2, searched=2), corpus_dir, db_dir, tmp_path / "3", tmp_path / "4")
    report = read_json(tmp_path / "4" / "report.json", "")
    told = f"neighbors: {report['without_neighbors']} of {sum(report['queries'].values())} chunks with text have no"
    assert report["without_neighbors"] > 0
    assert told in caplog.text


def test_a_query_without_text_has_no_neighbor(
    searcher: Searcher, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query, "texts_of", lambda tokenizer, tokens, mask: ["", "the quick fox"])
    block = StreamQueries(searcher, TokenStream(corpus, 0, 0, CHUNK)).block(range(2), 3, 6, lambda count: None)
    assert block.arrays["neighbors"][0].tolist() == [-1, -1, -1]
    assert (block.arrays["scores"][0] == -np.inf).all()
    assert (block.arrays["neighbors"][1] >= 0).all()
    assert block.counts["no_text"] == 1


def test_a_corpus_shorter_than_one_chunk_is_refused(tmp_path: Path) -> None:
    source = {"name": "a", "path": write_stories(tmp_path / "a.jsonl", 2)}
    corpus_build.run(settings(source, split=(1.0, 0.0, 0.0)), tmp_path / "1")
    long = DB.model_copy(update={"chunk_length": 5000})
    db_build.run(long, tmp_path / "1", tmp_path / "2")
    index_build.run(INDEX, tmp_path / "1", tmp_path / "2", tmp_path / "3")
    with pytest.raises(DataError, match="has no stream of 5000 tokens, the length of one chunk"):
        run(NEIGHBORS, tmp_path / "1", tmp_path / "2", tmp_path / "3", tmp_path / "4")


def test_a_stop_at_any_rename_costs_nothing_but_time(dirs: Dirs, neighbors_dir: Path, tmp_path: Path) -> None:
    whole, stops = artifact_bytes(neighbors_dir), 0
    for out in stops_everywhere(lambda out: run(NEIGHBORS, *dirs, out), tmp_path):
        run(NEIGHBORS, *dirs, out)
        assert artifact_bytes(out) == whole, out.name
        stops += 1
    assert stops >= 2 * (6 + 3 + 2)


def test_a_killed_run_goes_on(dirs: Dirs, neighbors_dir: Path, tmp_path: Path) -> None:
    code = """
import os, signal, sys
from pathlib import Path
from retro.common.blocks import BlockStore
from retro.neighbors.build import run
from tests.neighbors.road import NEIGHBORS
write = BlockStore.write
def stop(self, number, block):
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, number, block)
BlockStore.write = stop
run(NEIGHBORS, *map(Path, sys.argv[1:]))
"""
    assert killed(code, *dirs, tmp_path) == -9
    assert sorted(path.name for path in (tmp_path / "blocks").iterdir()) == ["000000.h5", "000001.h5"]
    run(NEIGHBORS, *dirs, tmp_path)
    report = read_json(tmp_path / "report.json", "")
    assert report["queries_done"] == sum(report["queries"].values()) - 120
    assert artifact_bytes(tmp_path) == artifact_bytes(neighbors_dir)


def test_a_flipped_byte_in_a_block_is_found(
    dirs: Dirs, neighbors_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Stopped), stopped_at_rename(6):
        run(NEIGHBORS, *dirs, tmp_path)
    flip_byte(tmp_path / "blocks" / "000001.h5", "neighbors")
    with caplog.at_level(logging.WARNING):
        run(NEIGHBORS, *dirs, tmp_path)
    assert "000001.h5 has changed bytes" in caplog.text
    assert artifact_bytes(tmp_path) == artifact_bytes(neighbors_dir)


def test_a_full_disk_is_one_error_and_the_run_goes_on_later(dirs: Dirs, neighbors_dir: Path, tmp_path: Path) -> None:
    with full_disk(after=3), pytest.raises(ArtifactError, match=r"000002\.h5: the disk is full"):
        run(NEIGHBORS, *dirs, tmp_path)
    assert sorted(path.name for path in (tmp_path / "blocks").iterdir()) == ["000000.h5", "000001.h5"]
    run(NEIGHBORS, *dirs, tmp_path)
    assert artifact_bytes(tmp_path) == artifact_bytes(neighbors_dir)


def test_three_ranks_make_the_same_files_as_one(dirs: Dirs, neighbors_dir: Path, tmp_path: Path) -> None:
    for rank in (2, 1):
        with pytest.raises(Stopped), stopped_at_rename(4):
            run(NEIGHBORS, *dirs, tmp_path, worker=Worker(rank, 3))
        assert (tmp_path / "blocks" / f"00000{rank}.h5").exists()
        assert not (tmp_path / MANIFEST).exists()
    run(NEIGHBORS, *dirs, tmp_path, worker=Worker(0, 3))
    assert artifact_bytes(tmp_path) == artifact_bytes(neighbors_dir)


def test_finished_neighbors_are_kept_and_other_settings_refused(dirs: Dirs, neighbors_dir: Path) -> None:
    assert run(NEIGHBORS, *dirs, neighbors_dir) == read_manifest(neighbors_dir, "neighbors")
    with pytest.raises(ArtifactError, match="saved was 4, now 5"):
        run(neighbors_config(saved=5), *dirs, neighbors_dir)


def test_neighbors_of_another_index_are_refused(dirs: Dirs, neighbors_dir: Path, tmp_path: Path) -> None:
    corpus_dir, db_dir, _ = dirs
    index_build.run(index_config(embedder={"dimension": 32}), corpus_dir, db_dir, tmp_path)
    with pytest.raises(ArtifactError, match="was made from index"):
        run(NEIGHBORS, corpus_dir, db_dir, tmp_path, neighbors_dir)


def test_only_the_splits_asked_for_are_searched(dirs: Dirs, tmp_path: Path) -> None:
    run(neighbors_config(splits=("valid",)), *dirs, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "blocks.json",
        "manifest.json",
        "report.json",
        "valid.h5",
    ]
    assert list(read_manifest(tmp_path, "neighbors").files) == ["valid.h5"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"searched": 3}, r"NeighborsConfig\.searched = 3: needs to be at least saved = 4"),
        ({"saved": 0}, r"NeighborsConfig\.saved = 0: needs"),
        ({"splits": ("train", "train")}, r"NeighborsConfig\.splits = \('train', 'train'\): needs each split once"),
        ({"filters": {"overlap_above": 1.5}}, r"NeighborsConfig\.filters\.overlap_above = 1\.5: needs"),
        ({"filters": {"near_duplicates_above": -1}}, r"NeighborsConfig\.filters\.near_duplicates_above = -1: needs"),
        ({"filters": {"shingle": 0}}, r"NeighborsConfig\.filters\.shingle = 0: needs"),
        ({"splits": ("dev",)}, r"NeighborsConfig\.splits\.0 = 'dev': needs"),
    ],
)
def test_settings_that_cannot_be_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        neighbors_config(**change)


def test_the_defaults_fit_each_other() -> None:
    assert NeighborsConfig().searched >= NeighborsConfig().saved


def test_the_report_says_how_evenly_neighbors_are_spread(
    neighbors_dir: Path, db: ChunkDatabase, corpus: Corpus
) -> None:
    report = read_json(neighbors_dir / "report.json", "")
    neighbors = Neighbors.open(neighbors_dir, db, corpus)
    for number, split in enumerate(("train", "valid", "test")):
        found = [
            int(row)
            for source in range(2)
            for row in neighbors.of(number, source, np.arange(neighbors.chunks(number, source)), 4).ravel()
        ]
        counts = [found.count(row) for row in db.rows_of(0)]
        assert report["hubness"][split]["most"] == max(counts)
        assert report["hubness"][split]["never_found"] == pytest.approx(counts.count(0) / len(counts), abs=1e-4)
        assert report["hubness"][split]["mean"] == pytest.approx(len(found) / len(counts), abs=1e-4)


def test_filters_change_the_neighbors_and_their_reasons_are_counted(
    dirs: Dirs, neighbors_dir: Path, db: ChunkDatabase, corpus: Corpus, tmp_path: Path
) -> None:
    run(neighbors_config(filters={"overlap_above": 0.3, "exact_duplicates": True}), *dirs, tmp_path)
    report = read_json(tmp_path / "report.json", "")
    assert report["copies_share"]["overlap"] > 0
    assert sorted(report["copies_share"]) == ["exact_duplicate", "near_duplicate", "overlap"]
    assert report["copies_share"]["near_duplicate"] == 0
    assert set(report["fewer_than_saved"]) == {"few_chunks", "few_found", "filtered", "no_text"}
    assert read_json(neighbors_dir / "report.json", "")["copies_share"] == {}
    stream = TokenStream(corpus, 0, 0, CHUNK)
    copies = CopyFilter(db, stream, FilterConfig())
    shares = {}
    for name, path in (("without", neighbors_dir), ("with", tmp_path)):
        ids = Neighbors.open(path, db, corpus).of(0, 0, np.arange(stream.chunks), 4)
        query, place = np.nonzero(ids >= 0)
        shares[name] = greatest_overlap(copies.pair(query, ids[query, place])).max()
    assert shares["with"] <= 0.3 < shares["without"]


def test_filtered_neighbors_are_other_neighbors_and_unfiltered_ones_keep_their_name(dirs: Dirs) -> None:
    assert "filters" not in neighbors_config().shaping
    assert neighbors_config(filters={"own_document": False}).shaping["filters"]["own_document"] is False


@pytest.mark.parametrize("filters", [{"own_document": False}, {"overlap_above": 0.5}, {"exact_duplicates": True}])
def test_neighbors_found_under_other_filters_are_refused(
    dirs: Dirs, neighbors_dir: Path, filters: dict[str, object]
) -> None:
    with pytest.raises(ArtifactError, match="filters was None, now"):
        run(neighbors_config(filters=filters), *dirs, neighbors_dir)


def test_a_stop_under_filters_costs_nothing_but_time(dirs: Dirs, tmp_path: Path) -> None:
    config = neighbors_config(filters={"near_duplicates_above": 0.4, "shingle": 2, "overlap_above": 0.5})
    run(config, *dirs, tmp_path / "whole")
    with pytest.raises(Stopped), stopped_at_rename(9):
        run(config, *dirs, tmp_path / "stopped")
    run(config, *dirs, tmp_path / "stopped")
    assert artifact_bytes(tmp_path / "stopped") == artifact_bytes(tmp_path / "whole")
