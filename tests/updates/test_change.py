from __future__ import annotations

import itertools
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from retro.cli.versions import table_of
from retro.common.artifacts import read_manifest
from retro.common.errors import ArtifactError, ConfigError, DataError
from retro.common.leases import run_lock
from retro.corpus import build as corpus_build
from retro.db import build as db_build
from retro.db.config import DbConfig
from retro.db.reader import ChunkDatabase
from retro.db.versions import Part, version_identity, versions_in
from retro.index import build as index_build
from retro.index.searcher import open_searcher
from retro.updates.change import add, remove, replace_documents
from retro.updates.compact import compact, remaining_sources
from retro.updates.state import VersionedDatabase, open_latest
from tests.corpus.texts import artifact_bytes, settings, story, write_stories
from tests.db.road import DB
from tests.db.stops import flip_byte, killed, stops_everywhere
from tests.index.road import INDEX, index_config
from tests.updates.places import home_of, place_of, scores, stories

pytestmark = pytest.mark.slow

ASKED = [story(3), story(45), story(102), "seven wizards in the yard"]


@pytest.fixture
def home(corpus_dir: Path, index_dir: Path, tmp_path: Path) -> VersionedDatabase:
    return home_of(corpus_dir, tmp_path / "versions")


@pytest.fixture(scope="module")
def fruit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three documents of two words each, chunks of two words: one row a document."""
    run = tmp_path_factory.mktemp("fruit")
    write_tokens(run / "tokenizer.json")
    write_documents(run / "fruit.jsonl", d1="red apple", d2="green pear", d3="blue plum")
    source = {"name": "fruit", "path": run / "fruit.jsonl"}
    tokenizer = {"kind": "huggingface", "path": run / "tokenizer.json"}
    config = settings(source, tokenizer=tokenizer, split=(1.0, 0.0, 0.0))
    corpus_build.run(config, run / "1_corpus")
    db_build.run(DbConfig(chunk_length=2), run / "1_corpus", run / "2_db")
    index_build.run(index_config(embedder={"dimension": 4096}), run / "1_corpus", run / "2_db", run / "3_index")
    return run


def ninth(stops: Iterator[Path]) -> Path:
    """Where a change was stopped with some of its files written."""
    return next(itertools.islice(stops, 8, None))


def write_tokens(path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit

    words = ["<|endoftext|>", "[UNK]", "red", "green", "blue", "apple", "pear", "plum", "cherry", "stone", "quince"]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.save(str(path))


def write_documents(path: Path, **texts: str) -> Path:
    path.write_text("".join(json.dumps({"id": name, "text": text}) + "\n" for name, text in texts.items()))
    return path


def found(home: VersionedDatabase, text: str, k: int = 2) -> list[tuple[int, str]]:
    """Rows and texts of the best hits."""
    current = open_latest(home)
    searcher = open_searcher(home.place(current.number)[1], current.database)
    ids, best = searcher.search(searcher.embedder.embed_queries([text]), k)
    return [(row, current.database.text(row)) for row, score in zip(ids[0].tolist(), best[0], strict=True) if score > 0]


def test_documents_come_and_go(fruit: Path, tmp_path: Path) -> None:
    home = home_of(fruit / "1_corpus", tmp_path / "versions")
    assert found(home, "red apple") == [(0, "red apple")]

    # Three words are two chunks, and so rows 3 and 4; both "red" chunks say red, one of them also apple.
    manifest = add(home, write_documents(tmp_path / "new.jsonl", d4="red cherry stone"))
    assert (manifest.config["version"], manifest.counts["rows"], manifest.counts["rows_removed"]) == (1, 5, 0)
    assert found(home, "red apple") == [(0, "red apple"), (3, "red cherry")]
    assert found(home, "stone") == [(4, "stone")]

    remove(home, ["d2"])
    assert found(home, "green pear") == []
    assert found(home, "red apple") == [(0, "red apple"), (3, "red cherry")]

    manifest = replace_documents(home, write_documents(tmp_path / "other.jsonl", d1="red quince"))
    assert (manifest.config["version"], manifest.counts["rows"], manifest.counts["rows_removed"]) == (3, 6, 2)
    assert found(home, "red apple", k=3) == [(3, "red cherry"), (5, "red quince")]

    # Live: d3, d4 in two chunks, d1. Rows are counted again, and the order of the documents stays.
    manifest = compact(home)
    assert (manifest.config["version"], manifest.counts["rows"], manifest.counts["rows_removed"]) == (4, 4, 0)
    database = open_latest(home).database
    assert [database.text(row) for row in range(4)] == ["blue plum", "red cherry", "stone", "red quince"]
    assert found(home, "red apple", k=3) == [(1, "red cherry"), (3, "red quince")]
    _, mask = database.neighbor_tokens(np.array([1, 2]))
    assert mask.sum(axis=1).tolist() == [3, 1]


def test_each_version_says_what_it_did(fruit: Path, tmp_path: Path) -> None:
    home = home_of(fruit / "1_corpus", tmp_path / "versions")
    first = add(home, write_documents(tmp_path / "new.jsonl", d4="red cherry stone"))
    second = remove(home, ["d1", "d3"])
    assert first.parents == {"version": version_identity(home.base.db)["fingerprint"]}
    assert second.parents == {"version": first.fingerprint}
    assert version_identity(home.directory(2)) == {"version": 2, "fingerprint": second.fingerprint}
    assert second.counts["documents_removed"] == 2
    lines = (home.directory(2) / "changes.jsonl").read_text().splitlines()
    assert list(map(json.loads, lines)) == [
        {"change": "removed", "source": "fruit", "id": "d1"},
        {"change": "removed", "source": "fruit", "id": "d3"},
    ]
    table = table_of(home)
    cells = dict(
        zip([name for name, _ in table.columns], zip(*(row for row, _ in table.rows), strict=True), strict=True)
    )
    assert cells["version"] == ("0", "1", "2")
    assert cells["change"] == ("as built", "add", "remove")
    assert cells["documents"] == ("", "1 added", "2 removed")
    assert cells["live chunks"] == ("3", "5", "3")
    assert cells["fingerprint"][1:] == (first.fingerprint, second.fingerprint)


def test_an_older_version_stays_as_it_was(home: VersionedDatabase, tmp_path: Path) -> None:
    before = scores(home, ASKED)
    add(home, stories(tmp_path / "new.jsonl", 100, 101), "a")
    added = artifact_bytes(home.directory(1))
    remove(home, ["d3", "d100"], "a")
    assert artifact_bytes(home.directory(1)) == added
    first = VersionedDatabase(base=home.base, versions=tmp_path / "one")
    first.versions.mkdir()
    home.directory(1).rename(first.directory(1))
    after = scores(first, ASKED)
    assert all(old.items() <= new.items() for old, new in zip(before, after, strict=True))


def test_an_added_database_finds_what_one_built_from_scratch_finds(home: VersionedDatabase, tmp_path: Path) -> None:
    add(home, write_stories(tmp_path / "more_a.jsonl", 9, 100), "a")
    add(home, write_stories(tmp_path / "c.jsonl", 5, 200), "c")
    remove(home, ["d41", "d50"], "b")
    replace_documents(home, stories(tmp_path / "again.jsonl", 7), "a")

    # The same documents as one corpus, with the tokenizer and the embedder of the living one.
    numbers = {"a": [*range(40), *range(100, 109)], "b": [n for n in range(40, 51) if n not in (41, 50)]}
    numbers |= {"c": list(range(200, 205))}
    sources = [{"name": name, "path": stories(tmp_path / f"all_{name}.jsonl", *n)} for name, n in numbers.items()]
    tokenizer = {"path": home.base.corpus / "tokenizer"}
    whole = tmp_path / "whole"
    corpus_build.run(settings(*sources, tokenizer=tokenizer, split=(1.0, 0.0, 0.0)), whole / "1_corpus")
    db_build.run(DbConfig(chunk_length=8), whole / "1_corpus", whole / "2_db")
    index_build.run(INDEX, whole / "1_corpus", whole / "2_db", whole / "3_index", like=home.base.index)
    scratch = scores(home_of(whole / "1_corpus", tmp_path / "none"), ASKED)
    assert scores(home, ASKED) == scratch
    compact(home)
    assert scores(home, ASKED) == scratch


def test_a_document_removed_and_added_again_is_found_as_before(home: VersionedDatabase, tmp_path: Path) -> None:
    before = scores(home, ASKED)
    remove(home, ["d3"], "a")
    assert not any(place[:2] == ("a", "d3") for found in scores(home, ASKED) for place in found)
    add(home, stories(tmp_path / "again.jsonl", 3), "a")
    assert scores(home, ASKED) == before


def test_compacting_changes_no_search_and_no_split(home: VersionedDatabase, tmp_path: Path) -> None:
    add(home, stories(tmp_path / "new.jsonl", 100, 101, 102), "a")
    add(home, stories(tmp_path / "c.jsonl", 200), "c")
    remove(home, ["d3", "d101", "d8"], "a")
    before, retrievable = scores(home, ASKED), scores(home, ASKED, "retrievable")
    assert 0 < len(retrievable[0]) < len(before[0])
    manifest = compact(home)
    assert scores(home, ASKED) == before
    assert scores(home, ASKED, "retrievable") == retrievable
    assert manifest.counts["rows"] == len(before[0])
    assert len(manifest.config["parts"]) == 1
    add(home, stories(tmp_path / "later.jsonl", 103), "a")
    assert sum(len(one) for one in scores(home, ASKED)) > sum(len(one) for one in before)


def test_compacting_copies_embeddings_row_by_row(
    home: VersionedDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(home, stories(tmp_path / "new.jsonl", 100, 101, 102), "a")
    remove(home, ["d3"], "a")
    before = scores(home, ASKED)

    def refuse(*_: object) -> None:
        raise AssertionError("a text was embedded again")

    monkeypatch.setattr("retro.index.embeddings.chunk_texts", refuse)
    compact(home)
    monkeypatch.undo()
    assert scores(home, ASKED) == before


def test_without_kept_embeddings_chunks_are_embedded_again(
    corpus_dir: Path, db_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index_build.run(index_config(keep_embeddings=False), corpus_dir, db_dir, tmp_path / "3_index")
    home = VersionedDatabase(
        base=Part(corpus=corpus_dir, db=db_dir, index=tmp_path / "3_index"), versions=tmp_path / "versions"
    )
    add(home, stories(tmp_path / "new.jsonl", 100), "a")
    before = scores(home, ASKED)
    with caplog.at_level(logging.WARNING):
        compact(home)
    assert "embedded again" in caplog.text
    assert scores(home, ASKED) == before


def test_an_approximate_base_is_searched_with_exact_parts(corpus_dir: Path, db_dir: Path, tmp_path: Path) -> None:
    approximate = index_config(faiss="IVF8,SQ8", nprobe=8)
    index_build.run(approximate, corpus_dir, db_dir, tmp_path / "3_index")
    home = VersionedDatabase(
        base=Part(corpus=corpus_dir, db=db_dir, index=tmp_path / "3_index"), versions=tmp_path / "versions"
    )
    add(home, stories(tmp_path / "new.jsonl", *range(100, 110)), "a")
    remove(home, ["d3", "d4", "d105"], "a")
    found = scores(home, ASKED)
    assert not any(place[1] in ("d3", "d4", "d105") for one in found for place in one)
    assert all(("a", "d104", 0) in one for one in found)
    # Story 102 is asked for word by word, so its chunks are among the best, above what SQ8 rounds.
    assert any(place[1] == "d102" for place in sorted(found[2], key=found[2].__getitem__)[-5:])
    # Compacted under the base's settings; 8 bits of each value are as many as before.
    compact(home)
    again = scores(home, ASKED)
    assert [set(one) for one in again] == [set(one) for one in found]
    assert read_manifest(home.directory(3) / "index", "index").counts["faiss"] == "IVF8,SQ8"


def test_compacting_twice_in_a_row_makes_one_version(home: VersionedDatabase, tmp_path: Path) -> None:
    add(home, stories(tmp_path / "new.jsonl", 100), "a")
    assert compact(home) == compact(home)
    assert list(versions_in(home.versions)) == [1, 2]


def test_the_same_change_asked_for_again_is_done_once(home: VersionedDatabase, tmp_path: Path) -> None:
    path = stories(tmp_path / "new.jsonl", 100)
    assert add(home, path, "a") == add(home, path, "a")
    assert remove(home, ["d100"], "a") == remove(home, ["d100"], "a")
    assert home.latest == 2


@pytest.mark.parametrize("kind", ["add", "remove", "compact"])
def test_a_stop_at_any_rename_costs_nothing_but_time(
    kind: str, corpus_dir: Path, index_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = stories(tmp_path / "new.jsonl", 100, 101)

    def work(versions: Path) -> None:
        home = home_of(corpus_dir, versions)
        if kind == "add":
            add(home, path, "a")
        elif kind == "remove":
            remove(home, ["d2", "d3"], "a")
        else:
            if not home.latest:
                remove(home, ["d2", "d3"], "a")
            compact(home)

    work(tmp_path / "whole")
    # The same tokenizer each time, which was tried in a process of its own.
    monkeypatch.setattr("retro.tokenizers.tokenizer.probe_tokenizer", lambda file, kind: None)
    whole, stops = artifact_bytes(tmp_path / "whole"), 0
    for versions in stops_everywhere(work, tmp_path):
        # What was there before stays readable while a change is half done.
        database = open_latest(home_of(corpus_dir, versions)).database
        assert database.rows >= 0
        work(versions)
        assert artifact_bytes(versions) == whole, versions.name
        stops += 1
    assert stops >= {"remove": 2 * 4}.get(kind, 2 * 12)


def test_a_killed_change_goes_on(corpus_dir: Path, index_dir: Path, tmp_path: Path) -> None:
    path = write_stories(tmp_path / "new.jsonl", 30, 100)
    code = """
import os, signal, sys
from pathlib import Path
from retro.index import build
from retro.updates.change import add
from tests.updates.places import home_of
def stop(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)
build.run = stop
add(home_of(Path(sys.argv[1]), Path(sys.argv[2])), Path(sys.argv[3]), "a")
"""
    assert killed(code, corpus_dir, tmp_path / "stopped", path) == -9
    stopped = home_of(corpus_dir, tmp_path / "stopped")
    assert stopped.latest == 0
    made = (stopped.directory(1) / "db" / "db.h5").stat().st_mtime_ns
    add(stopped, path, "a")
    assert (stopped.directory(1) / "db" / "db.h5").stat().st_mtime_ns == made
    add(home_of(corpus_dir, tmp_path / "whole"), path, "a")
    assert artifact_bytes(tmp_path / "stopped") == artifact_bytes(tmp_path / "whole")


def test_another_change_takes_the_place_of_a_stopped_one(
    corpus_dir: Path, index_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = stories(tmp_path / "new.jsonl", 100)
    stopped = ninth(stops_everywhere(lambda versions: add(home_of(corpus_dir, versions), path, "a"), tmp_path))
    home = home_of(corpus_dir, stopped)
    assert (home.directory(1) / "corpus").exists()
    with caplog.at_level(logging.WARNING):
        remove(home, ["d3"], "a")
    assert "held another change, which was stopped" in caplog.text
    remove(home_of(corpus_dir, tmp_path / "whole"), ["d3"], "a")
    assert artifact_bytes(stopped) == artifact_bytes(tmp_path / "whole")


def test_two_changes_at_a_time_are_refused(home: VersionedDatabase) -> None:
    with run_lock(home.versions), pytest.raises(ArtifactError, match="another process"):
        remove(home, ["d3"], "a")


def test_bad_input_is_counted_and_named(
    home: VersionedDatabase, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = stories(tmp_path / "new.jsonl", 100)
    path.write_text(path.read_text() + '{"text": 3}\nnot json\n')
    with caplog.at_level(logging.WARNING):
        add(home, path, "a")
    assert "2 rejected" in caplog.text
    rejects = (home.directory(1) / "corpus" / "rejects.jsonl").read_text()
    assert "text is not a string" in rejects
    assert "invalid JSON" in rejects
    path.write_text("nothing\n")
    with pytest.raises(DataError, match="holds no document"):
        add(home, path, "a")
    assert home.latest == 1


def test_documents_that_are_there_are_not_added_twice(home: VersionedDatabase, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"already has document 'd3' and 1 more\. `retro db replace`"):
        add(home, stories(tmp_path / "new.jsonl", 3, 5, 100), "a")
    # Another source may have a document of that id.
    add(home, stories(tmp_path / "new.jsonl", 3), "b")


def test_unknown_documents_are_named_with_the_nearest(home: VersionedDatabase, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"source 'a': the database has no document 'd300'\. The nearest id is 'd3"):
        remove(home, ["d3", "d300"], "a")
    with pytest.raises(DataError, match=r"no document 'd999', 'x'\. The nearest id is 'd9"):
        remove(home, ["d999", "x"], "a")
    with pytest.raises(DataError, match=r"no document 'zebra'\. `retro db add` adds"):
        remove(home, ["zebra"], "a")
    with pytest.raises(DataError, match="the database has no document 'd100'"):
        replace_documents(home, stories(tmp_path / "new.jsonl", 3, 100), "a")
    remove(home, ["d3"], "a")
    with pytest.raises(DataError, match=r"no document 'd3'\. The nearest id is 'd3\d'"):
        remove(home, ["d3", "d4"], "a")


def test_the_source_has_to_be_said_where_there_are_several(home: VersionedDatabase, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--source = None: needs the name of a source; the database has a, b"):
        remove(home, ["d3"])
    with pytest.raises(ConfigError, match="'aa': is not a source; did you mean 'a'"):
        remove(home, ["d3"], "aa")
    with pytest.raises(ConfigError, match="is not a source"):
        replace_documents(home, stories(tmp_path / "new.jsonl", 3), "c")
    with pytest.raises(ConfigError, match=r"SourceConfig\.name"):
        add(home, stories(tmp_path / "new.jsonl", 3), "no/name")


def test_a_database_without_any_document_cannot_be_compacted(fruit: Path, tmp_path: Path) -> None:
    home = home_of(fruit / "1_corpus", tmp_path / "versions")
    remove(home, ["d1", "d2", "d3"])
    assert len(open_latest(home).database.all_rows) == 0
    assert found(home, "red apple") == []
    with pytest.raises(DataError, match="every document of the database was removed"):
        compact(home)


def test_a_version_that_does_not_exist_is_refused(home: VersionedDatabase) -> None:
    for number in ("d1", "d2", "d3"):
        remove(home, [number], "a")
    assert home.number("latest") == 3
    assert home.number(0) == 0
    with pytest.raises(ConfigError, match=r"database\.version = 4: needs a version .*: 0 to 3"):
        home.number(4)
    assert home.place(0) == (home.base.db, home.base.index)
    assert home.place(2) == (home.directory(2), home.directory(2))


def test_a_damaged_version_is_an_error_that_says_what_to_do(home: VersionedDatabase) -> None:
    remove(home, ["d3"], "a")
    flip_byte(home.directory(1) / "removed.h5", "rows")
    with pytest.raises(ArtifactError, match=r"removed\.h5: has SHA-256 .*Put the files back"):
        open_latest(home)
    (home.directory(1) / "manifest.json").write_text("{}")
    with pytest.raises(ArtifactError, match="is not a manifest"):
        version_identity(home.directory(1))


def test_a_part_that_was_made_anew_is_noticed(corpus_dir: Path, tmp_path: Path) -> None:
    db_dir, index_dir = tmp_path / "2_db", tmp_path / "3_index"
    db_build.run(DB, corpus_dir, db_dir)
    index_build.run(INDEX, corpus_dir, db_dir, index_dir)
    home = VersionedDatabase(base=Part(corpus=corpus_dir, db=db_dir, index=index_dir), versions=tmp_path / "versions")
    remove(home, ["d3"], "a")
    made = version_identity(index_dir)["fingerprint"]
    shutil.rmtree(index_dir)
    index_build.run(index_config(embedder={"dimension": 32}), corpus_dir, db_dir, index_dir)
    with pytest.raises(ArtifactError, match=rf"was made of index {made}, but .*3_index is \w+ now\. Bring that"):
        open_searcher(home.directory(1), open_latest(home).database)
    made = version_identity(db_dir)["fingerprint"]
    shutil.rmtree(db_dir)
    db_build.run(DbConfig(chunk_length=16), corpus_dir, db_dir)
    with pytest.raises(ArtifactError, match=rf"was made of database {made}, but .*2_db is \w+ now\. Bring that"):
        open_latest(home)


def test_a_damaged_index_of_a_part_is_an_error(home: VersionedDatabase, tmp_path: Path) -> None:
    add(home, stories(tmp_path / "new.jsonl", 100), "a")
    current = open_latest(home)
    flip_byte(home.directory(1) / "index" / "index.faiss")
    with pytest.raises(ArtifactError, match=r"0001/index/index\.faiss"):
        searcher = open_searcher(home.directory(1), current.database)
        searcher.search(searcher.embedder.embed_queries(["fox"]), 1)


def test_live_sources_know_the_first_row_of_each_document(home: VersionedDatabase, db: ChunkDatabase) -> None:
    remove(home, ["d0", "d39"], "a")
    current = open_latest(home).database
    sources = {source.name: source for source in remaining_sources(current)}
    assert len(sources["a"].first_row) == 38
    assert len(sources["b"].first_row) == 11
    assert [place_of(current, row)[2] for row in sources["a"].first_row.tolist()] == [0] * 38


def test_a_refused_change_leaves_what_was_stopped(corpus_dir: Path, index_dir: Path, tmp_path: Path) -> None:
    new = write_stories(tmp_path / "new.jsonl", 2, 200)

    def home_in(versions: Path) -> VersionedDatabase:
        return home_of(corpus_dir, versions)

    home = home_in(ninth(stops_everywhere(lambda versions: add(home_in(versions), new, "a"), tmp_path)))
    before = sorted(path.name for path in home.directory(1).iterdir())
    assert "request.json" in before
    with pytest.raises((ConfigError, DataError)):
        remove(home, ["no such document"], "a")
    assert sorted(path.name for path in home.directory(1).iterdir()) == before
    assert add(home, new, "a").counts["documents_added"] == 2
    with pytest.raises((ConfigError, DataError)):
        remove(home, ["no such document"], "a")
    assert not home.directory(2).exists()
