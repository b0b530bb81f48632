from __future__ import annotations

import logging
import os
import signal
from pathlib import Path

import pytest

from retro.common.artifacts import read_manifest
from retro.common.errors import ArtifactError, ConfigError, DataError
from retro.common.files import read_json
from retro.common.launcher import Worker
from retro.corpus import build as corpus_build
from retro.corpus.reader import Corpus
from retro.corpus.token_files import TokenFileWriter
from retro.db.build import run
from retro.db.config import DbConfig
from retro.db.reader import ChunkDatabase
from tests.corpus.test_resume import killed_at_rename
from tests.corpus.texts import artifact_bytes, settings, tiny_tokenizer
from tests.db.road import CHUNK, DB, make_corpus
from tests.db.stops import Stopped, flip_byte, full_disk, stopped_at_rename


def naive_rows(corpus: Corpus, chunk_length: int) -> list[list[tuple[int, int, int, int, int]]]:
    """Per split: source, document, start, tokens, continues, by plain loops over documents."""
    rows: list[list[tuple[int, int, int, int, int]]] = [[], [], []]
    for source in range(len(corpus.sources)):
        file = corpus.token_file(source)
        for document, split in enumerate(corpus.split_of(source).tolist()):
            start, stop = (int(file.document_starts[document + side]) for side in (0, 1))
            if stop > start and file.tokens[stop - 1] == corpus.tokenizer.eod:
                stop -= 1
            for begin in range(start, stop, chunk_length):
                end = min(begin + chunk_length, stop)
                rows[split].append((source, document, begin, end - begin, int(end < stop)))
    return rows


def test_rows_are_those_of_a_plain_loop_train_then_valid_then_test(db: ChunkDatabase, corpus: Corpus) -> None:
    wanted = naive_rows(corpus, CHUNK)
    assert [len(rows) for rows in wanted] == [len(db.rows_of(split)) for split in range(3)]
    names = ("source", "document", "token_start", "token_count", "continues")
    found = list(zip(*(db.columns[name].tolist() for name in names), strict=True))
    assert found == [row for rows in wanted for row in rows]
    assert db.manifest.counts["rows"] == len(found) == db.rows_of(2).stop


def test_empty_documents_give_no_row_and_are_counted(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(tmp_path / "tokenizer")
    eod = tokenizer.eod
    writer = TokenFileWriter(tmp_path / "m", tokenizer.vocab_size)
    documents = [[9, 8, 7, eod], [eod], [11, 12, 13, 14, 15], [21, eod]]
    for document in documents:
        writer.add_document(document)
    writer.finish()
    source = {"name": "m", "path": tmp_path / "m", "kind": "megatron"}
    config = settings(source, tokenizer={"path": tmp_path / "tokenizer"}, split=(1.0, 0.0, 0.0))
    corpus_build.run(config, tmp_path / "1_corpus")
    manifest = run(DbConfig(chunk_length=4), tmp_path / "1_corpus", tmp_path / "2_db")
    db = ChunkDatabase.open(tmp_path / "2_db", Corpus.open(tmp_path / "1_corpus"))
    assert manifest.counts["empty_documents"] == 1
    assert db.columns["document"].tolist() == [0, 2, 2, 3]
    assert db.columns["token_count"].tolist() == [3, 4, 1, 1]
    assert db.columns["token_start"].tolist() == [0, 5, 9, 10]
    report = read_json(tmp_path / "2_db" / "report.json", "")
    assert (report["documents"], report["chunks"], report["tokens"]) == (4, 4, 9)


def test_a_corpus_of_empty_documents_is_refused(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(tmp_path / "tokenizer")
    writer = TokenFileWriter(tmp_path / "m", tokenizer.vocab_size)
    for _ in range(3):
        writer.add_document([tokenizer.eod])
    writer.finish()
    source = {"name": "m", "path": tmp_path / "m", "kind": "megatron"}
    config = settings(source, tokenizer={"path": tmp_path / "tokenizer"}, split=(1.0, 0.0, 0.0))
    corpus_build.run(config, tmp_path / "1_corpus")
    with pytest.raises(DataError, match="every document is empty"):
        run(DB, tmp_path / "1_corpus", tmp_path / "2_db")


def test_a_kill_at_any_rename_costs_nothing_but_time(corpus_dir: Path, db_dir: Path, tmp_path: Path) -> None:
    whole, kills = artifact_bytes(db_dir), 0
    for number in range(1, 100):
        out = tmp_path / f"killed{number}"
        if not killed_at_rename(number, lambda out=out: run(DB, corpus_dir, out)):  # type: ignore[misc]
            break
        kills += 1
        run(DB, corpus_dir, out)
        assert artifact_bytes(out) == whole, number
    # Two stops for the plan, each of 7 blocks, the database, the report, the checksums of blocks and the manifest.
    assert kills == 24


def test_a_kill_while_blocks_are_removed_leaves_a_finished_stage(
    corpus_dir: Path, db_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "2_db"
    child = os.fork()
    if child == 0:
        monkeypatch.setattr("shutil.rmtree", lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL))
        run(DB, corpus_dir, out)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert (out / "blocks").exists()
    run(DB, corpus_dir, out)
    assert artifact_bytes(out) == artifact_bytes(db_dir)


def test_the_size_of_blocks_changes_no_byte(corpus_dir: Path, db_dir: Path, tmp_path: Path) -> None:
    other = DbConfig(chunk_length=CHUNK, documents_per_block=1000)
    run(other, corpus_dir, tmp_path)
    assert artifact_bytes(tmp_path) == artifact_bytes(db_dir)
    # So a finished database serves either setting.
    assert run(DB, corpus_dir, tmp_path) == read_manifest(db_dir, "db")


def test_two_ranks_make_the_same_database_as_one(corpus_dir: Path, db_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(Stopped), stopped_at_rename(6):
        run(DB, corpus_dir, tmp_path, worker=Worker(1, 2))
    assert sorted(path.name for path in (tmp_path / "blocks").iterdir()) == ["000001.h5", "000003.h5"]
    run(DB, corpus_dir, tmp_path, worker=Worker(0, 2))
    assert artifact_bytes(tmp_path) == artifact_bytes(db_dir)


def test_a_flipped_byte_in_a_block_is_found_and_the_block_built_again(
    corpus_dir: Path, db_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Stopped), stopped_at_rename(12):
        run(DB, corpus_dir, tmp_path)
    flip_byte(tmp_path / "blocks" / "000002.h5", "document")
    with caplog.at_level(logging.WARNING):
        run(DB, corpus_dir, tmp_path)
    assert "000002.h5 has changed bytes (checksum); it is built again" in caplog.text
    assert artifact_bytes(tmp_path) == artifact_bytes(db_dir)


def test_blocks_of_another_chunk_length_are_not_taken_over(
    corpus_dir: Path, db_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Stopped), stopped_at_rename(6):
        run(DbConfig(chunk_length=5, documents_per_block=9), corpus_dir, tmp_path)
    with caplog.at_level(logging.WARNING):
        run(DB, corpus_dir, tmp_path)
    assert "000000.h5 was made from other inputs or settings; it is built again" in caplog.text
    assert artifact_bytes(tmp_path) == artifact_bytes(db_dir)


def test_a_full_disk_is_one_error_and_keeps_the_blocks_that_were_done(
    corpus_dir: Path, db_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match=r"000003\.h5: the disk is full"), full_disk(after=4):
        run(DB, corpus_dir, tmp_path)
    assert sorted(path.name for path in (tmp_path / "blocks").iterdir()) == [f"00000{n}.h5" for n in range(3)]
    run(DB, corpus_dir, tmp_path)
    assert artifact_bytes(tmp_path) == artifact_bytes(db_dir)


def test_another_chunk_length_is_refused_by_a_finished_database(corpus_dir: Path, db_dir: Path) -> None:
    with pytest.raises(ArtifactError, match="chunk_length was 8, now 16"):
        run(DbConfig(chunk_length=16), corpus_dir, db_dir)


@pytest.mark.parametrize(
    "other",
    [{"tokenizer": {"vocab_size": 330}}, {"split": (0.6, 0.2, 0.2)}, {"seed": 5}],
    ids=["tokenizer", "split", "seed"],
)
def test_a_corpus_with_another_tokenizer_or_split_is_refused(
    other: dict[str, object], db_dir: Path, tmp_path: Path
) -> None:
    corpus_dir = make_corpus(tmp_path, **other)
    with pytest.raises(ArtifactError, match="was made from corpus"):
        run(DB, corpus_dir, db_dir)
    with pytest.raises(ArtifactError, match="was made from corpus"):
        ChunkDatabase.open(db_dir, Corpus.open(corpus_dir))


@pytest.mark.parametrize("field", ["chunk_length", "documents_per_block"])
def test_a_size_that_is_not_positive_is_named(field: str) -> None:
    with pytest.raises(ConfigError, match=rf"DbConfig\.{field} = 0: needs"):
        DbConfig(**{field: 0})
