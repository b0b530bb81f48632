"""A small corpus and what the stages make of it, built once per test session."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from retro.corpus import build as corpus_build
from retro.corpus.reader import Corpus
from retro.db import build as db_build
from retro.db.config import DbConfig
from retro.db.reader import ChunkDatabase
from tests.corpus.texts import settings, write_stories

CHUNK = 8
DB = DbConfig(chunk_length=CHUNK, documents_per_block=9)


def make_corpus(directory: Path, **others: Any) -> Path:
    """A corpus of two sources, 40 and 11 stories, in `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    sources = [
        {"name": name, "path": write_stories(directory / f"{name}.jsonl", count, start)}
        for name, count, start in (("a", 40, 0), ("b", 11, 40))
    ]
    corpus_build.run(settings(*sources, **others), directory / "1_corpus")
    return directory / "1_corpus"


@pytest.fixture(scope="session")
def corpus_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("road"))


@pytest.fixture(scope="session")
def db_dir(corpus_dir: Path) -> Path:
    db_build.run(DB, corpus_dir, corpus_dir.parent / "2_db")
    return corpus_dir.parent / "2_db"


@pytest.fixture(scope="session")
def corpus(corpus_dir: Path) -> Corpus:
    return Corpus.open(corpus_dir)


@pytest.fixture(scope="session")
def db(db_dir: Path, corpus: Corpus) -> ChunkDatabase:
    return ChunkDatabase.open(db_dir, corpus)
