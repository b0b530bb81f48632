"""BM25 indexes of a few texts, without a database."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from retro.common.artifacts import Manifest, describe_files, write_manifest
from retro.index.bm25.postings import Occurrences, occurrences, total, write_index
from retro.index.bm25.reader import Bm25Index
from retro.index.config import STAGE, Bm25Config


def index_of(texts: Sequence[str], out: Path, config: Bm25Config, pieces: int = 1) -> Bm25Index:
    """The index of some texts, counted in a number of pieces."""
    size = -(-len(texts) // pieces)
    parts = [occurrences(texts[start : start + size], start) for start in range(0, len(texts), size)]
    return index_of_pieces(parts, len(texts), out, config)


def index_of_pieces(parts: Sequence[Occurrences], rows: int, out: Path, config: Bm25Config) -> Bm25Index:
    """The index of counted words."""
    out.mkdir(parents=True, exist_ok=True)
    totals = total(parts, rows)
    names = write_index(lambda: iter(parts), totals, config, out)
    counts = {"rows": rows, "words": len(totals.word_W), "pairs": int(totals.chunks_W.sum())}
    files = describe_files(out, names)
    made = Manifest(stage=STAGE, config=config.shaping, parents={}, counts=counts, files=files)
    return Bm25Index(out, write_manifest(out, made), rows)
