"""Overlaps joined with losses: scores over the chunks of which at most a share alpha is in the training text.

(arXiv:2112.04426, section 2.6): arithmetic on arrays, no files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retro.analysis.leakage.config import STAGE, LeakageConfig
from retro.analysis.leakage.summary import sentences
from retro.common.artifacts import Manifest, read_manifest
from retro.common.hdf5 import map_column
from retro.pretrain.chunk_losses import Perplexities

# Dims in this file. C chunks of a source   K neighbors saved


FILE = "overlaps.h5"
TEXT, NEIGHBORS, READ, TRAINING = "text", "neighbors", "read", "training"
MEASURES = (NEIGHBORS, READ, TRAINING)
"""A chunk's own saved neighbors (arXiv:2112.04426, section 2.6); those of the chunk before it, which models read while
they predict it; the whole training text."""


@dataclass(frozen=True)
class OverlapReader:
    """The artifact of `build.run`."""

    directory: Path
    manifest: Manifest

    @classmethod
    def open(cls, directory: Path) -> OverlapReader:
        """Open finished overlaps.

        Raises:
            ArtifactError: They are not finished, or the file is damaged.
        """
        return cls(directory, read_manifest(directory, STAGE))

    def shares(self, source: str, measure: str, neighbors: int) -> NDArray[np.float64]:
        """[C] the greatest share of each chunk's text that is in one piece in what the measure looks at.

        Args:
            source: Name of the source.
            measure: One of MEASURES.
            neighbors: How many neighbors are looked at where models read them; the paper's measure takes all saved.
        """
        lengths = self._column(source, measure)
        if measure == READ:
            lengths = lengths[:, :neighbors]
        if lengths.ndim == 2:
            lengths = lengths.max(axis=1, initial=0)
        text_C = self._column(source, TEXT)
        shares_C: NDArray[np.float64] = lengths / np.maximum(text_C, 1)
        return shares_C

    def _column(self, source: str, name: str) -> NDArray[np.int32]:
        remedy = f"Delete {self.directory} and run `retro {STAGE}` again"
        column: NDArray[np.int32] = map_column(self.directory / FILE, f"{source}/{name}", remedy)
        return column


# Dims in this file. C chunks


Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
# Shares are quotients of small integers: 0.3 read as text and 3 / 10 may differ in their last bit.
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Chunks:
    """Losses of one model, chunk by chunk."""

    loss_C: Float64
    """Summed cross-entropy in nats."""
    tokens_C: Int64
    """Tokens predicted."""
    bytes_C: Int64
    """UTF-8 bytes of these tokens."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """What a model scores on the chunks up to one alpha; None where no such chunk has text."""

    alpha: float
    chunks: int
    tokens: int
    bytes: int
    perplexity: float | None
    """exp of the mean loss of their tokens."""
    bits_per_byte: float | None
    """Total bits of their tokens, over total bytes."""


def within(share_C: Float64, alpha: float) -> NDArray[np.bool_]:
    """[C] True where at most `alpha` of a chunk is in the training text."""
    inside_C: NDArray[np.bool_] = share_C <= alpha + _TOLERANCE
    return inside_C


def reaching(share_C: Float64, least: float) -> NDArray[np.bool_]:
    """[C] True where at least `least` of a chunk is in the training text."""
    inside_C: NDArray[np.bool_] = share_C >= least - _TOLERANCE
    return inside_C


def curve(share_C: Float64, chunks: Chunks, alphas: Sequence[float]) -> list[Point]:
    """A model's scores at each alpha.

    Raises:
        ValueError: There are not as many shares as losses.
    """
    if len(share_C) != len(chunks.loss_C):
        raise ValueError(f"{len(share_C)} shares and losses of {len(chunks.loss_C)} chunks")
    return [_point(within(share_C, alpha), chunks, alpha) for alpha in alphas]


def _point(inside_C: NDArray[np.bool_], chunks: Chunks, alpha: float) -> Point:
    loss = float(chunks.loss_C[inside_C].sum())
    tokens, size = int(chunks.tokens_C[inside_C].sum()), int(chunks.bytes_C[inside_C].sum())
    return Point(
        alpha=alpha,
        chunks=int(inside_C.sum()),
        tokens=tokens,
        bytes=size,
        perplexity=math.exp(loss / tokens) if tokens else None,
        bits_per_byte=loss / math.log(2) / size if size else None,
    )


def histogram(share_C: Float64, alphas: Sequence[float]) -> list[int]:
    """Chunks between each alpha and the one before it; the first holds all from 0 on."""
    upto = [int(within(share_C, alpha).sum()) for alpha in alphas]
    return [one - before for one, before in zip(upto, [0, *upto], strict=False)]


# Dims in this file. C chunks of all sources


def measure(
    config: LeakageConfig,
    overlaps: OverlapReader,
    perplexities: Perplexities | None,
    sources: Sequence[str],
    *,
    chunk_length: int,
    neighbors_read: int,
    neighbors_saved: int,
) -> dict[str, Any]:
    """All results, as plain JSON values.

    Only chunks that every model predicted whole count, so that all models are compared on the same text; the tokens
    behind a stream's last whole chunk never do.

    Args:
        config: The alphas.
        overlaps: Of the split's chunks.
        perplexities: Losses of the same chunks; None where nothing was trained: then only overlaps are reported.
        sources: Names of the corpus's sources.
        chunk_length: M.
        neighbors_read: Neighbors that the models read.
        neighbors_saved: Neighbors that the paper's measure looks at.
    """
    rows = () if perplexities is None else perplexities.rows
    chunks = {row: _chunks(perplexities, sources, row) for row in rows} if perplexities is not None else {}
    shares = {
        name: np.concatenate([overlaps.shares(source, name, neighbors_read) for source in sources]) for name in MEASURES
    }
    whole_C = np.ones(len(shares[MEASURES[0]]), dtype=np.bool_)
    firsts = np.cumsum([0, *(len(overlaps.shares(source, MEASURES[0], 1)) for source in sources)])[:-1]
    for one in chunks.values():
        whole_C &= _predicted_whole(one.tokens_C, chunk_length, firsts)
    chunks = {
        row: Chunks(one.loss_C[whole_C], one.tokens_C[whole_C], one.bytes_C[whole_C]) for row, one in chunks.items()
    }
    result: dict[str, Any] = {
        "split": overlaps.manifest.config["split"],
        "chunk_length": chunk_length,
        "neighbors_saved": neighbors_saved,
        "neighbors_read": neighbors_read,
        "alphas": list(config.alphas),
        "chunks": int(whole_C.sum()),
        "chunks_left_out": int((~whole_C).sum()),
        "measures": {name: _of_measure(share_C[whole_C], chunks, config) for name, share_C in shares.items()},
        "overlaps": overlaps.manifest.fingerprint,
        "perplexity": None if perplexities is None else perplexities.manifest.fingerprint,
    }
    return result | {"sentences": sentences(result)}


def _chunks(perplexities: Perplexities, sources: Sequence[str], row: tuple[str, str]) -> Chunks:
    """One model's losses over the whole chunks of all sources."""
    pairs = [perplexities.losses(source, row) for source in sources]
    return Chunks(
        np.concatenate([loss_C[:-1] for loss_C, _ in pairs]),
        np.concatenate([tokens_C[:-1] for _, tokens_C in pairs]),
        np.concatenate([perplexities.bytes_of(source)[:-1] for source in sources]),
    )


def _predicted_whole(tokens_C: NDArray[np.int64], chunk_length: int, firsts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """[C] whether all of a chunk was predicted; of a stream's first chunk, all but its first token."""
    needed_C = np.full(len(tokens_C), chunk_length)
    needed_C[firsts[firsts < len(tokens_C)]] -= 1
    whole_C: NDArray[np.bool_] = tokens_C == needed_C
    return whole_C


def _of_measure(
    share_C: NDArray[np.float64], chunks: dict[tuple[str, str], Chunks], config: LeakageConfig
) -> dict[str, Any]:
    return {
        "histogram": histogram(share_C, config.alphas),
        "mean": float(share_C.mean()) if len(share_C) else 0.0,
        "median": float(np.median(share_C)) if len(share_C) else 0.0,
        "copied": {name: int(reaching(share_C, least).sum()) for name, least in (("half", 0.5), ("whole", 1.0))},
        "rows": [
            {
                "model": model,
                "neighbors": neighbors,
                "points": [asdict(point) for point in curve(share_C, one, config.alphas)],
            }
            for (model, neighbors), one in chunks.items()
        ],
    }
