"""What benchmarks/store_memory.py says of its measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.store_memory import PHASES, HashEmbedder, growth, measure, page
from retro.index.config import EmbedderConfig
from retro.index.embedder import EMBEDDERS


def row(segments: int, own: int) -> dict[str, Any]:
    phases = {phase: {"own": own, "with_files": 2 * own, "seconds": 3.0} for phase in PHASES}
    return {"segments": segments, "shards": 1, "at_start": 100_000_000, "disk": 10**9, "phases": phases}


def test_growth_is_bytes_for_each_further_segment() -> None:
    rows = [row(100_000, 200_000_000), row(200_000, 203_000_000), row(300_000, 206_000_000)]
    assert growth(rows, "embed") == pytest.approx(30)
    assert np.isnan(growth(rows[:1], "embed"))
    found = page({"rows": rows, "machine": "m", "dimension": 8, "shard": 50_000})
    assert "| 200,000 | 1 | 100 | 203 (406), 3 s" in found
    # 206 MB and 30 bytes for each of 9.7 million more.
    assert "**Extrapolated, not measured**, to 10,000,000 segments in shards of that size: 0.5 GB" in found
    assert all(len(line) <= 120 for line in found.splitlines())
    assert "Extrapolated" not in page({"rows": rows[:1], "machine": "m", "dimension": 8, "shard": 50_000})


def test_all_phases_run_and_every_segment_is_found_in_the_store(tmp_path: Path) -> None:
    try:
        found = measure(300, 80, 100, tmp_path)
    finally:
        EMBEDDERS.unregister("hash")
    assert (found["rows"], found["shards"], found["found"]) == (300, 3, 100)
    assert set(found["phases"]) == set(PHASES)


def test_a_hash_has_any_number_of_values() -> None:
    EMBEDDERS.register("hash")(HashEmbedder)
    try:
        config = EmbedderConfig(kind="hash", options={"dimension": 100})
        vectors = HashEmbedder(config).embed_passages(["a", "b"])
    finally:
        EMBEDDERS.unregister("hash")
    assert vectors.shape == (2, 100)
    assert vectors.dtype == np.float32
    assert np.array_equal(vectors[:, :36], vectors[:, 64:])
    assert np.abs(vectors).max() <= 1
