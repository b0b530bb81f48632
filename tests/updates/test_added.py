"""The corpus of documents that join a database."""

from __future__ import annotations

from pathlib import Path

import pytest

from retro.common.errors import ConfigError
from retro.corpus.build import run
from retro.corpus.reader import Corpus
from retro.db import build as db_build
from retro.db.config import DbConfig
from retro.db.versions import open_database
from retro.updates.documents import corpus_config
from tests.corpus.texts import settings, write_stories


def test_documents_do_not_join_a_source_that_is_held_out_whole(tmp_path: Path) -> None:
    ours = {"name": "ours", "path": write_stories(tmp_path / "ours.jsonl", 30)}
    theirs = {"name": "theirs", "path": write_stories(tmp_path / "theirs.jsonl", 5, 30), "split": "test"}
    run(settings(ours, theirs, split=(1, 0, 0)), tmp_path / "corpus")
    db_build.run(DbConfig(chunk_length=2), tmp_path / "corpus", tmp_path / "db")
    database = open_database(tmp_path / "db", Corpus.open(tmp_path / "corpus"))
    assert corpus_config([database], "ours", tmp_path / "new.jsonl").sources[0].name == "ours"
    with pytest.raises(ConfigError, match=r"--source = 'theirs': is held out whole \(split: test\)"):
        corpus_config([database], "theirs", tmp_path / "new.jsonl")
