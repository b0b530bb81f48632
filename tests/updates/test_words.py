from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from retro.common.artifacts import is_complete
from retro.common.errors import ArtifactError
from retro.corpus import build as corpus_build
from retro.corpus.reader import Corpus
from retro.db import build as db_build
from retro.db.config import DbConfig
from retro.index import build as index_build
from retro.index.bm25 import build as bm25_build
from retro.index.config import Bm25Config, SearchConfig
from retro.index.retriever import open_retriever
from retro.index.search import open_search
from retro.updates.change import add, index_words, remove, replace_documents
from retro.updates.compact import compact
from retro.updates.state import VersionedDatabase, open_latest
from tests.corpus.texts import artifact_bytes, settings
from tests.db.stops import flip_byte
from tests.index.road import index_config
from tests.updates.places import home_of
from tests.updates.test_change import write_documents, write_tokens

pytest.importorskip("bm25s")
BY_WORDS = SearchConfig(source="bm25")


def make(run: Path, kind: str) -> Path:
    """Three documents of two words each, chunks of two words: one row a document; with an index of words."""
    write_tokens(run / "tokenizer.json")
    write_documents(run / "fruit.jsonl", d1="red apple", d2="green pear", d3="blue plum")
    tokenizer = {"kind": "huggingface", "path": run / "tokenizer.json"}
    source = {"name": "fruit", "path": run / "fruit.jsonl"}
    corpus_build.run(settings(source, tokenizer=tokenizer, split=(1.0, 0.0, 0.0)), run / "1_corpus")
    db_build.run(DbConfig(chunk_length=2), run / "1_corpus", run / "2_db")
    embedder = {"kind": kind} | ({"dimension": 4096} if kind == "hashing" else {})
    index_build.run(index_config(embedder=embedder), run / "1_corpus", run / "2_db", run / "3_index")
    bm25_build.run(Bm25Config(k1=1, b=0), run / "1_corpus", run / "2_db", run / "3_index" / "bm25")
    return run


@pytest.fixture(params=["hashing", "none"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> VersionedDatabase:
    run = make(tmp_path, request.param)
    return home_of(run / "1_corpus", run / "versions")


def found(home: VersionedDatabase, text: str, k: int = 3, config: SearchConfig = BY_WORDS) -> list[tuple[int, str]]:
    current = open_latest(home)
    search = open_search(config, home.place(current.number)[1], current.database)
    ids = search.search(search.prepare([text]), k).ids_QC
    return [(row, current.database.text(row)) for row in ids[0].tolist() if row >= 0]


def test_documents_come_and_go_and_are_found_by_words(home: VersionedDatabase, tmp_path: Path) -> None:
    assert found(home, "red apple") == [(0, "red apple")]
    add(home, write_documents(tmp_path / "new.jsonl", d4="red cherry stone"))
    assert found(home, "red apple") == [(0, "red apple"), (3, "red cherry")]
    assert found(home, "stone") == [(4, "stone")]
    remove(home, ["d2"])
    assert found(home, "green pear") == []
    replace_documents(home, write_documents(tmp_path / "other.jsonl", d1="red quince"))
    assert found(home, "red apple") == [(3, "red cherry"), (5, "red quince")]
    compact(home)
    assert found(home, "red apple") == [(1, "red cherry"), (3, "red quince")]


def test_a_version_is_the_index_of_its_whole_and_only_what_came_last_is_counted(
    home: VersionedDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[range] = []
    count = bm25_build._count

    def noted(db: Any, rows: range, advance: Any) -> Any:
        counted.append(rows)
        return count(db, rows, advance)

    monkeypatch.setattr(bm25_build, "_count", noted)
    add(home, write_documents(tmp_path / "new.jsonl", d4="red cherry stone"))
    assert counted == [range(3, 5)]
    remove(home, ["d1"])
    assert counted == [range(3, 5)]
    directory = home.directory(2)
    bm25_build.run(Bm25Config(k1=1, b=0), home.base.corpus, directory, tmp_path / "whole")
    grown, whole = artifact_bytes(directory / "bm25"), artifact_bytes(tmp_path / "whole")
    assert {name: data for name, data in grown.items() if name.endswith(".npy")} == {
        name: data for name, data in whole.items() if name.endswith(".npy")
    }


def test_questions_are_answered_from_the_latest_version(home: VersionedDatabase, tmp_path: Path) -> None:
    add(home, write_documents(tmp_path / "new.jsonl", d4="red cherry stone"))
    retrieve = open_retriever(Corpus.open(home.base.corpus), *home.place(1), 2, BY_WORDS)
    assert [[passage.text for passage in passages] for passages in retrieve(["cherry"])] == [["red cherry stone"]]


def test_a_version_without_an_index_of_words_is_refused_by_name_and_gets_one(
    home: VersionedDatabase, tmp_path: Path
) -> None:
    (home.base.index / "bm25").rename(tmp_path / "aside")
    add(home, write_documents(tmp_path / "new.jsonl", d4="red cherry stone"))
    assert not is_complete(home.directory(1) / "bm25")
    with pytest.raises(ArtifactError, match=r"0001/bm25/manifest\.json: is missing.*Run `retro index`"):
        found(home, "red")
    (tmp_path / "aside").rename(home.base.index / "bm25")
    index_words(home, 1)
    assert found(home, "stone") == [(4, "stone")]


def test_a_damaged_index_is_not_grown(home: VersionedDatabase, tmp_path: Path) -> None:
    flip_byte(home.base.index / "bm25" / "counts.npy")
    with pytest.raises(ArtifactError, match=r"counts\.npy: has SHA-256"):
        add(home, write_documents(tmp_path / "new.jsonl", d4="red cherry stone"))


def test_words_and_vectors_together_follow_a_version(tmp_path: Path) -> None:
    run = make(tmp_path, "hashing")
    home = home_of(run / "1_corpus", run / "versions")
    add(home, write_documents(tmp_path / "new.jsonl", d4="red cherry stone"))
    for config in (SearchConfig(source="hybrid"), SearchConfig(rerank="bm25")):
        assert found(home, "cherry", 1, config) == [(3, "red cherry")]
