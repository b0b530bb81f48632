"""Neighbors of the small corpus, found once per test session."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from retro.neighbors import build
from retro.neighbors.config import NeighborsConfig

NEIGHBORS = NeighborsConfig(saved=4, searched=6, queries_per_block=60)


def neighbors_config(**changes: Any) -> NeighborsConfig:
    """NEIGHBORS with some settings changed."""
    return NeighborsConfig(**(NEIGHBORS.model_dump() | changes))


@pytest.fixture(scope="session")
def neighbors_dir(index_dir: Path) -> Path:
    run_dir = index_dir.parent
    build.run(NEIGHBORS, run_dir / "1_corpus", run_dir / "2_db", index_dir, run_dir / "4_neighbors")
    return run_dir / "4_neighbors"
