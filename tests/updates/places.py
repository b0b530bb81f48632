"""What the tests of database updates check: which chunk of which document is found, whatever its row."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from retro.common.row_set import RowSet
from retro.db.reader import ChunkDatabase
from retro.db.versions import Part
from retro.index.searcher import open_searcher
from retro.updates.state import VersionedDatabase, open_latest
from tests.corpus.texts import write_stories

Place = tuple[str, str, int]
"""Source, document id, and which chunk of the document."""


def home_of(corpus_dir: Path, versions: Path) -> VersionedDatabase:
    """A run's database, with its versions in a folder of the test's own."""
    run = corpus_dir.parent
    return VersionedDatabase(base=Part(corpus=corpus_dir, db=run / "2_db", index=run / "3_index"), versions=versions)


def stories(path: Path, *numbers: int) -> Path:
    """A file with some stories."""
    lines = [write_stories(path, 1, number).read_text(encoding="utf-8") for number in numbers]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def place_of(db: ChunkDatabase, row: int) -> Place:
    """Where a row stands, in words."""
    source, document = int(db.columns["source"][row]), int(db.columns["document"][row])
    start = db.corpus.token_file(source).document_starts[document]
    chunk = (int(db.columns["token_start"][row]) - int(start)) // db.chunk_length
    return db.corpus.sources[source], db.document_id(row), chunk


def scores(home: VersionedDatabase, texts: list[str], rows: str = "all_rows") -> list[dict[Place, float]]:
    """For each text, the score of every chunk that can be found."""
    current = open_latest(home)
    db = current.database
    searcher = open_searcher(home.place(current.number)[1], db)
    wanted: RowSet = getattr(db, rows)
    ids, found = searcher.search(searcher.embedder.embed_queries(texts), len(wanted), wanted)
    assert (ids >= 0).all()
    return [
        {place_of(db, row): float(score) for row, score in zip(ids_K, scores_K, strict=True)}
        for ids_K, scores_K in zip(ids.tolist(), found.astype(np.float64).round(5), strict=True)
    ]
