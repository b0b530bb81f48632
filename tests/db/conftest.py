from __future__ import annotations

from tests.db.road import corpus, corpus_dir, db, db_dir  # noqa: F401
