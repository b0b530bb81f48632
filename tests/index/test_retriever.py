from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from retro.common.artifacts import MANIFEST, describe_files, parse_manifest, read_manifest, write_manifest
from retro.common.errors import ArtifactError
from retro.common.files import read_json, write_json
from retro.common.hdf5 import map_column
from retro.common.row_set import RowSet
from retro.corpus.reader import Corpus
from retro.db.reader import ChunkDatabase
from retro.index.embeddings import chunk_texts
from retro.index.faiss_index import load_index
from retro.index.retriever import Retriever
from retro.index.searcher import Searcher, open_searcher
from tests.corpus.texts import story
from tests.db.stops import flip_byte


@pytest.fixture
def copied(index_dir: Path, tmp_path: Path) -> Path:
    shutil.copytree(index_dir, tmp_path / "copy")
    return tmp_path / "copy"


def test_search_is_the_sorted_matrix_product_over_the_rows_asked_for(
    index_dir: Path, db: ChunkDatabase, searcher: Searcher
) -> None:
    vectors = map_column(index_dir / "embeddings.h5", "embeddings", "").astype(np.float32)
    queries, rows = vectors[db.rows_of(1).start :][:9], db.rows_of(0)
    ids, scores = searcher.search(queries, 12, db.retrievable)
    products = np.sort(queries @ vectors[rows.start : rows.stop].T, axis=1)[:, ::-1][:, :12]
    assert np.allclose(scores, products, atol=1e-5)
    assert ((ids >= rows.start) & (ids < rows.stop)).all()


def test_asking_for_more_than_there_is_pads_with_none(searcher: Searcher) -> None:
    ids, scores = searcher.search(np.eye(2, 64, dtype=np.float32), 5, RowSet.of(range(10, 13)))
    assert (ids[:, 3:] == -1).all()
    assert (scores[:, 3:] == -np.inf).all()
    assert sorted(ids[0, :3].tolist()) == [10, 11, 12]
    assert searcher.search(np.zeros((0, 64), dtype=np.float32), 5)[0].shape == (0, 5)
    assert (searcher.search(np.eye(2, 64, dtype=np.float32), 5, RowSet.of())[0] == -1).all()


@pytest.mark.parametrize(("shape", "k"), [((2, 32), 5), ((64,), 5), ((2, 64), 0)])
def test_questions_that_cannot_be_are_refused(searcher: Searcher, shape: tuple[int, ...], k: int) -> None:
    with pytest.raises(ValueError, match="cannot look for"):
        searcher.search(np.zeros(shape, dtype=np.float32), k)


def test_rows_beyond_the_database_are_refused(searcher: Searcher) -> None:
    with pytest.raises(ValueError, match="cannot look among rows up to 1000000"):
        searcher.search(np.eye(2, 64, dtype=np.float32), 5, RowSet.of(range(1_000_000)))


def test_an_index_that_changed_after_it_was_opened_is_not_given_to_faiss(copied: Path, db: ChunkDatabase) -> None:
    searcher = open_searcher(copied, db)
    flip_byte(copied / "index.faiss")
    with pytest.raises(ArtifactError, match=r"index\.faiss: has SHA-256 .* bytes changed on disk"):
        searcher.search(np.eye(1, 64, dtype=np.float32), 5)


def test_a_truncated_index_is_named(copied: Path, db: ChunkDatabase) -> None:
    path = copied / "index.faiss"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=r"index\.faiss: has \d+ bytes, its manifest says"):
        open_searcher(copied, db)


def test_a_flipped_byte_in_the_index_is_named_before_faiss_reads_it(copied: Path, db: ChunkDatabase) -> None:
    flip_byte(copied / "index.faiss")
    with pytest.raises(ArtifactError, match=r"index\.faiss: has SHA-256 .* bytes changed on disk"):
        open_searcher(copied, db)


@pytest.mark.parametrize("content", [b"", b"not an index at all", b"IxFI"], ids=["empty", "text", "short"])
def test_a_file_that_faiss_cannot_read_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "index.faiss").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"index\.faiss: cannot be read by Faiss"):
        load_index(tmp_path / "index.faiss", 1, 4)


@pytest.mark.parametrize(("rows", "dimension"), [(1, 64), (10**6, 64)])
def test_an_index_of_another_size_is_named(index_dir: Path, rows: int, dimension: int) -> None:
    with pytest.raises(ArtifactError, match=r"holds \d+ vectors of 64 values, needed are"):
        load_index(index_dir / "index.faiss", rows, dimension)


def test_an_embedder_of_another_dimension_is_refused(copied: Path, db: ChunkDatabase) -> None:
    manifest = read_manifest(copied, "index")
    manifest.counts["dimension"] = 32
    write_manifest(copied, manifest)
    with pytest.raises(ArtifactError, match=r"holds \d+ vectors of 64 values, needed are \d+ of 32"):
        _ = open_searcher(copied, db).embedder


def test_an_embedder_of_another_identity_is_refused(copied: Path, db: ChunkDatabase) -> None:
    described = read_json(copied / "embedder.json", "")
    path = copied / "embedder.json"
    manifest = read_manifest(copied, "index")
    described["identity"]["idf_sha256"] = "0" * 64
    write_json(path, described)
    manifest.files.update(describe_files(copied, ["embedder.json"]))
    write_manifest(copied, manifest)
    with pytest.raises(ArtifactError, match="records an embedder with idf_sha256 '0000"):
        _ = open_searcher(copied, db).embedder


def test_an_unfinished_index_is_named(copied: Path, db: ChunkDatabase) -> None:
    (copied / MANIFEST).unlink()
    with pytest.raises(ArtifactError, match="Run `retro index` first"):
        open_searcher(copied, db)


@pytest.fixture
def retriever(searcher: Searcher, db: ChunkDatabase, corpus: Corpus) -> Retriever:
    return Retriever(searcher, db, corpus)


def test_a_passage_is_found_in_every_split_with_its_document(retriever: Retriever, corpus: Corpus) -> None:
    documents = [int(np.flatnonzero(corpus.split_of(0) == split)[0]) for split in range(3)]
    rows = [int(np.flatnonzero(retriever.db.document_key(np.arange(retriever.db.rows)) == n)[0]) for n in documents]
    texts = chunk_texts(retriever.db, np.array(rows))
    for n, text, (best, *_) in zip(documents, texts, retriever.retrieve(texts, 3), strict=True):
        assert story(n).startswith(best.text[:10])
        assert (best.document_id, best.title) == (f"d{n}", f"Story {n}")
        assert best.text.startswith(text)
        assert best.score == pytest.approx(1, abs=1e-2)


def test_passages_of_a_text_do_not_overlap_and_fall_in_score(retriever: Retriever) -> None:
    for passages in retriever.retrieve([story(3), story(44), "fox"], 6):
        assert len(passages) == 6
        assert [p.score for p in passages] == sorted((p.score for p in passages), reverse=True)
        for one in passages:
            for other in passages:
                near = one is not other and one.document_id == other.document_id
                assert not (near and abs(one.row - other.row) <= 1)


def test_asking_for_every_passage_ends_and_overlaps_none(retriever: Retriever) -> None:
    (passages,) = retriever.retrieve(["fox"], retriever.db.rows)
    assert 51 <= len(passages) < retriever.db.rows
    assert retriever.retrieve([], 3) == []


def test_a_forged_number_of_vectors_is_named_when_the_index_is_opened(copied: Path, db: ChunkDatabase) -> None:
    path = copied / "index.faiss"
    content = path.read_bytes()
    path.write_bytes(content[:8] + (1 << 40).to_bytes(8, "little") + content[16:])
    manifest = parse_manifest(copied / "manifest.json", "")
    write_manifest(copied, replace(manifest, files=describe_files(copied, list(manifest.files))))
    with pytest.raises(ArtifactError, match=r"index\.faiss: holds 1099511627776 vectors of 64 values, needed are"):
        open_searcher(copied, db)
