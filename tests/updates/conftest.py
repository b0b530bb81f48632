from __future__ import annotations

from tests.db.road import corpus, corpus_dir, db, db_dir  # noqa: F401
from tests.index.road import index_dir, searcher  # noqa: F401
