"""A database that NVIDIA's tools built becomes two stages of a run, row for row."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from retro.common.errors import ArtifactError, DataError, RetroError
from retro.corpus.reader import Corpus
from retro.db import build as db_stage
from retro.db.config import DbConfig
from retro.db.reader import ChunkDatabase
from retro.index import build as index_stage
from retro.interop import nvidia_rows as rows_module
from retro.interop.nvidia_import import Imported, import_project
from retro.neighbors import build as neighbors_stage
from retro.neighbors.config import NeighborsConfig
from retro.neighbors.reader import Neighbors
from retro.run.config import load_run_config
from retro.run.pipeline import stage
from tests.corpus.texts import artifact_bytes
from tests.index.road import index_config
from tests.interop.nvidia import CHUNK, FakeProject, write_block, write_merged


def take_over(project: FakeProject, run: Path, **options: Any) -> Imported:
    return import_project(project.directory, run, run / "1_corpus", run / "2_db", **options)


def open_run(run: Path) -> ChunkDatabase:
    return ChunkDatabase.open(run / "2_db", Corpus.open(run / "1_corpus"))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> FakeProject:
    return FakeProject(tmp_path_factory.mktemp("project")).build()


@pytest.fixture
def mine(project: FakeProject, tmp_path: Path) -> FakeProject:
    """A copy of the project that a test may damage."""
    shutil.copytree(project.directory, tmp_path / "project")
    return FakeProject(tmp_path / "project", train=project.train, valid=project.valid, texts=project.texts)


@pytest.fixture(scope="module")
def run(project: FakeProject, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    take_over(project, folder)
    return folder


def test_every_row_is_theirs_in_their_order(project: FakeProject, run: Path) -> None:
    db = open_run(run)
    assert (db.rows_of(0), db.rows_of(1), db.rows_of(2)) == (
        range(len(project.train)),
        range(len(project.train), db.rows),
        range(db.rows, db.rows),
    )
    for row, (corpus, document, start, end, _) in enumerate([*project.train, *project.valid]):
        assert project.tokenizer is not None
        tokens, mask = db.chunk_tokens(np.array([row]))
        expected = project.tokenizer.encode(project.texts[corpus][document])[start:end]
        assert tokens[0][mask[0]].tolist() == expected
        assert db.document_id(row) == f"{db.corpus.sources[corpus]}:{document}"


def test_a_continuation_is_the_next_chunk_of_the_document_and_of_no_other(project: FakeProject, run: Path) -> None:
    db = open_run(run)
    for row, (corpus, document, start, _, _) in enumerate(project.train):
        assert project.tokenizer is not None
        tokens, mask = db.neighbor_tokens(np.array([row]))
        whole = project.tokenizer.encode(project.texts[corpus][document])
        assert tokens[0][mask[0]].tolist() == whole[start : start + 2 * CHUNK]


def test_nothing_left_out_gives_the_bytes_of_our_own_db_stage(run: Path, tmp_path: Path) -> None:
    db_stage.run(DbConfig(chunk_length=CHUNK), run / "1_corpus", tmp_path / "2_db")
    assert artifact_bytes(tmp_path / "2_db") == artifact_bytes(run / "2_db")


def test_the_held_out_documents_are_those_of_their_split(project: FakeProject, run: Path) -> None:
    corpus = Corpus.open(run / "1_corpus")
    # 90 % of 23 and of 12, rounded down.
    for source, train in ((0, 20), (1, 10)):
        split = corpus.split_of(source).tolist()
        assert split == [0] * train + [1] * (len(split) - train)
    assert corpus.weights == pytest.approx((1 / 3, 2 / 3))
    assert (run / "1_corpus/stories_text_document.bin").is_symlink()
    assert corpus.sources == ("stories_text_document", "stories_text_document-2")


def test_the_run_goes_on_from_the_settings_it_wrote(run: Path) -> None:
    config = load_run_config(run / "run.yaml", [])
    manifest = stage("corpus").run(config)
    assert manifest.fingerprint == Corpus.open(run / "1_corpus").manifest.fingerprint
    assert stage("db").run(config).fingerprint == open_run(run).manifest.fingerprint
    folder = run.parent / "went_on"
    shutil.copytree(run, folder, symlinks=True)
    dirs = [folder / name for name in ("1_corpus", "2_db", "3_index", "4_neighbors")]
    index_stage.run(index_config(), *dirs[:3])
    neighbors_stage.run(NeighborsConfig(saved=2, searched=8), *dirs)
    db = open_run(folder)
    ids = Neighbors.open(dirs[3], db, db.corpus).of(0, 0, np.arange(5), 2)
    assert ((ids >= 0) & (ids < len(db.rows_of(0)))).all()


def test_a_second_import_finds_the_first_complete(project: FakeProject, run: Path) -> None:
    before = artifact_bytes(run)
    assert take_over(project, run).rows == {"train": len(project.train), "valid": len(project.valid)}
    assert artifact_bytes(run) == before


def test_chunks_that_were_left_out_are_no_continuation(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # Document 3 of the first corpus loses its second chunk, document 22, held out, its first.
    project = FakeProject(tmp_path / "p", left_out=((0, 3, CHUNK), (0, 22, 0))).build()
    with caplog.at_level(logging.WARNING):
        found = take_over(project, tmp_path / "run")
    assert found.left_out == {"train": 1, "valid": 1}
    assert "left out 1 chunks without a wordpiece" in caplog.text
    db = open_run(tmp_path / "run")
    row = project.train.index(next(one for one in project.train if one[:3] == [0, 3, 0]))
    assert db.columns["continues"][row] == 0
    assert project.train[row + 1][:3] == [0, 3, 2 * CHUNK]
    _, mask = db.neighbor_tokens(np.array([row]))
    assert mask.sum() == CHUNK
    assert db.rows == len(project.train) + len(project.valid)


@pytest.mark.parametrize("size", [1, 2, 7])
def test_slices_of_any_size_give_the_same_bytes(
    project: FakeProject, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(rows_module, "SLICE", size)
    take_over(project, tmp_path)
    assert (tmp_path / "2_db/db.h5").read_bytes() == (run / "2_db/db.h5").read_bytes()


def test_a_kill_after_the_corpus_is_made_good_by_the_same_command(
    project: FakeProject, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from retro.interop import nvidia_import as database_module

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(database_module, "describe_files", killed)
        with pytest.raises(KeyboardInterrupt):
            take_over(project, tmp_path)
    take_over(project, tmp_path)
    assert artifact_bytes(tmp_path / "2_db") == artifact_bytes(run / "2_db")


def test_index_and_neighbors_of_theirs_are_named_and_not_taken(mine: FakeProject, tmp_path: Path) -> None:
    index = mine.directory / "index/faiss-par-add/IVF4,Flat/added_1.000_1.000.faissindex"
    index.parent.mkdir(parents=True)
    index.write_bytes(b"x")
    (mine.directory / "query/train_0123").mkdir(parents=True)
    told = take_over(mine, tmp_path / "run").not_imported
    assert [line.partition(":")[0] for line in told] == [str(index), str(mine.directory / "query/train_0123")]
    assert "inner product of vectors of length 1" in told[0]
    assert "another order than our streams" in told[1]


def test_blocks_may_have_been_deleted(mine: FakeProject, run: Path, tmp_path: Path) -> None:
    shutil.rmtree(mine.directory / "db/individual")
    (mine.directory / "db/indexed_dataset_infos.json").unlink()
    take_over(mine, tmp_path / "run")
    # The corpus is linked to other files of the same bytes, so the artifacts are equal but for where they came from.
    theirs, ours = open_run(tmp_path / "run"), open_run(run)
    assert all(np.array_equal(theirs.columns[name], ours.columns[name]) for name in ours.columns)


def refused(project: FakeProject, run: Path, kind: type[RetroError] = DataError, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        take_over(project, run, **options)
    assert not (run / "2_db/manifest.json").exists()
    return str(caught.value)


@pytest.mark.parametrize("name", ["train", "valid", "sampled"])
def test_a_file_that_was_not_written_to_its_end_is_refused(mine: FakeProject, tmp_path: Path, name: str) -> None:
    write_merged(mine.merged / f"{name}.hdf5", mine.train, written=7)
    said = refused(mine, tmp_path / "run")
    assert f"{name}.hdf5: was not written to its end: 7 of {len(mine.train)} rows" in said


def test_a_file_cut_short_or_missing_is_refused(mine: FakeProject, tmp_path: Path) -> None:
    path = mine.merged / "train.hdf5"
    path.write_bytes(path.read_bytes()[:-900])
    assert "train.hdf5: cannot be read as HDF5" in refused(mine, tmp_path / "run")
    path.unlink()
    assert "train.hdf5: is missing" in refused(mine, tmp_path / "run")


def test_another_type_or_shape_is_refused(mine: FakeProject, tmp_path: Path) -> None:
    path = mine.merged / "train.hdf5"
    write_merged(path, mine.train, dtype=np.int64)
    assert "of type int64" in refused(mine, tmp_path / "run")
    write_merged(path, [row[:4] for row in mine.train])
    assert "needed are uint32 (rows, 5)" in refused(mine, tmp_path / "run")


ROW = 6


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        (0, 2, "is of corpus 2, and there are 2"),
        (1, 21, "is of document 21, which is not among the train documents"),
        (1, 900, "is of document 900, which is not among the train documents"),
        (2, 3, "starts at token 3, no multiple of 8"),
        (3, 4000, "ends at token 4000, outside its document"),
        (3, 0, "ends at token 0, outside its document"),
    ],
)
def test_a_row_that_leaves_its_document_is_named(
    mine: FakeProject, tmp_path: Path, column: int, value: int, words: str
) -> None:
    rows = [list(row) for row in mine.train]
    rows[ROW][column] = value
    write_merged(mine.merged / "train.hdf5", rows)
    assert f"train.hdf5: row {ROW} {words}" in refused(mine, tmp_path / "run")


def test_a_row_that_is_too_short_is_named_with_the_likely_reason(mine: FakeProject, tmp_path: Path) -> None:
    rows = [list(row) for row in mine.train]
    place = next(number for number, row in enumerate(rows) if row[3] - row[2] == CHUNK)
    rows[place][3] -= 1
    write_merged(mine.merged / "train.hdf5", rows)
    said = refused(mine, tmp_path / "run")
    assert f"row {place} ends at token" in said
    assert "does another token end documents? Name it with --eod-token" in said


@pytest.mark.parametrize("slice_rows", [3, 1 << 20])
def test_rows_out_of_order_or_twice_are_named(
    mine: FakeProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slice_rows: int
) -> None:
    monkeypatch.setattr(rows_module, "SLICE", slice_rows)
    # One row too many changes the counts too, so one of the others goes.
    rows = [*mine.train[:ROW], mine.train[ROW - 1], *mine.train[ROW + 1 :]]
    write_merged(mine.merged / "train.hdf5", rows)
    assert f"train.hdf5: row {ROW} does not come after the row before it" in refused(mine, tmp_path / "run")


def test_rows_that_neither_file_nor_blocks_account_for_are_noticed(mine: FakeProject, tmp_path: Path) -> None:
    write_merged(mine.merged / "train.hdf5", mine.train[:-3])
    said = refused(mine, tmp_path / "run")
    assert (
        f"train.hdf5: has {len(mine.train) - 3} rows for {len(mine.train)} chunks of train documents, 0 of which"
        in said
    )


def test_a_list_of_corpora_that_is_older_is_noticed(mine: FakeProject, tmp_path: Path) -> None:
    path = mine.directory / "db/indexed_dataset_infos.json"
    text = path.read_text()
    count = sum(row[0] == 0 for row in mine.train)
    path.write_text(text.replace(f'"n_chunks_train": {count}', f'"n_chunks_train": {count + 1}'))
    said = refused(mine, tmp_path / "run")
    assert f"has {count} rows of stories_text_document, indexed_dataset_infos.json says {count + 1}" in said
    path.write_text("[]")
    assert "does not list the 2 corpora" in refused(mine, tmp_path / "run")
    path.write_text(text.replace("part1", "other").replace("stories", "tales"))
    assert "describes 'part0/tales_text_document' where config.json names" in refused(mine, tmp_path / "run")


def test_a_block_that_is_missing_or_half_written_is_named(mine: FakeProject, tmp_path: Path) -> None:
    folder = mine.directory / "db/individual" / mine.prefix(0)
    first, second = folder / "0000-0011.hdf5", folder / "0011-0023.hdf5"
    kept = second.read_bytes()
    second.unlink()
    assert "0000-0011.hdf5: ends at document 11; the corpus has 23" in refused(mine, tmp_path / "run")
    second.write_bytes(kept[:600])
    assert "0011-0023.hdf5: cannot be read as HDF5" in refused(mine, tmp_path / "run")
    second.write_bytes(kept)
    write_block(first, [], [], 0, 11)
    assert "rows of stories_text_document, its blocks have" in refused(mine, tmp_path / "run")
    first.unlink()
    assert "0011-0023.hdf5: is not the block that starts at document 0" in refused(mine, tmp_path / "run")


def test_a_run_that_holds_another_corpus_is_left_alone(mine: FakeProject, run: Path) -> None:
    mine.configure(retro_gpt_split="50,50,0")
    with pytest.raises(ArtifactError, match="was made under other settings"):
        take_over(mine, run)


def test_documents_of_several_sequences_are_refused(mine: FakeProject, tmp_path: Path) -> None:
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    prefix = mine.directory / "data" / mine.prefix(0)
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=np.uint16)
    builder.add_document(np.arange(6, dtype=np.uint16), [4, 2])
    builder.finalize(f"{prefix}.idx")
    assert "has 2 sequences in 1 documents" in refused(mine, tmp_path / "run")


def test_the_settings_written_are_only_what_was_set(run: Path) -> None:
    settings = yaml.safe_load((run / "run.yaml").read_text(encoding="utf-8"))
    assert settings["db"] == {"chunk_length": CHUNK}
    assert settings["corpus"]["held_out"] == "last"
    assert "vocab_size" not in settings["corpus"]["tokenizer"]
    assert [source["weight"] for source in settings["corpus"]["sources"]] == [1.0, 2.0]
