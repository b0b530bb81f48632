"""Embedding passages, a shard at a time: several processes, one on each GPU, make a shard each.

Vectors are made in blocks, and a block is on disk when the next one begins; the shard is written at the end, as
Contriever's tools write it. Stopped anywhere and called again, it ends in the same bytes.
"""

# Dims in this file. N passages of a shard   D dimension

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retro.common.artifacts import differences, fingerprint
from retro.common.block_stage import Advance
from retro.common.blocks import Block, BlockStore, ranges
from retro.common.coordinator import Coordinator
from retro.common.errors import ArtifactError, ConfigError, DataError
from retro.common.files import make_writable, read_json, write_json
from retro.common.progress import duration
from retro.index.embedder import Embedder, require_vectors
from retro.recipes.passages.config import PassagesConfig
from retro.recipes.passages.embedders import embedded_text, shared_embedder
from retro.recipes.passages.passages import Passages
from retro.recipes.passages.shard_writer import stream_shard
from retro.recipes.passages.shards import (
    PREFIX,
    require_numbers,
    shard_name,
    shard_number,
    shard_rows,
)
from retro.recipes.passages.store import STORE

log = logging.getLogger(__name__)

HEADERS = "shards"
"""Below the store: what each shard was made of."""
_BLOCKS = "blocks"
_STAGE = "recipe"


@dataclass(frozen=True, kw_only=True)
class ShardReport:
    """What was made."""

    path: Path
    passages: int
    without_title: int
    """Of all passages, not of this shard."""
    dimension: int
    seconds: float

    @property
    def line(self) -> str:
        """What was made, for people."""
        return f"{self.path}: {self.passages:,} passages as {self.dimension} values, {duration(self.seconds)}"


def embed_shard(
    config: PassagesConfig, out: Path, shard: int = 0, shards: int = 1, *, prefix: str = PREFIX
) -> ShardReport:
    """Embed one shard of the passages into `out`; one that is there and was made so is left as it is.

    Args:
        config: Passages, embedder, and what of a passage is embedded.
        out: Folder of the shards. Processes that make other shards work in it at the same time.
        shard: Its number, from 0.
        shards: How many there are.
        prefix: First part of the files' names.

    Raises:
        ConfigError: There is no such shard, there are more shards than passages, or the embedder makes no vectors.
        DataError, DependencyError: Passages or model cannot be used.
        ArtifactError: A shard of that name was made of something else, or by other tools; the shards in `out` were
            embedded by another model; or the disk is full.
    """
    if not 0 <= shard < shards:
        raise ConfigError("shard_id", shard, f"needs a number from 0 to {shards - 1}, as num_shards is {shards}")
    started = time.monotonic()
    make_writable(out, "output_dir", out)
    store = config.store or out / STORE
    passages = Passages.open(config.passages_file, store)
    if shards > len(passages):
        raise ConfigError("num_shards", shards, f"needs to be at most {len(passages)}, the number of passages")
    embedder = shared_embedder(config, passages, store)
    rows = shard_rows(len(passages), shard, shards)
    path = out / shard_name(shard, prefix)
    header = _header(config, passages, embedder, rows) | {"shard": shard, "shards": shards}
    if _is_complete(path, store, header):
        log.info("passages: %s: already complete", path)
    else:
        _embed(_ShardWork(config, passages, embedder, rows), path, store, header)
    report = ShardReport(
        path=path, passages=len(rows), without_title=passages.without_title, dimension=embedder.dimension,
        seconds=round(time.monotonic() - started, 3),
    )  # fmt: skip
    log.info("passages: %s", report.line)
    return report


def require_as_embedded(config: PassagesConfig, embedder: Embedder, store: Path, shards: Sequence[Path]) -> None:
    """Check what is known of shards that were made here: that all are there, and that questions are embedded alike.

    Nothing is known of the shards of other tools.

    Raises:
        DataError: Some of the shards that the passages were divided into are missing.
        ArtifactError: A shard was embedded by another model, or in small letters, and questions are not to be.
    """
    for path in shards:
        beside = _header_path(store, path)
        if not beside.exists():
            continue
        header = read_json(beside, f"Delete {path} and {beside}")
        require_numbers(path.parent, {shard_number(one) for one in shards}, int(header["shards"]))
        if header["lowercase"] != config.lowercase:
            problem = f"was embedded with lowercase={header['lowercase']}, questions are to be with {config.lowercase}"
            raise ArtifactError(path, problem, "Set lowercase as it was, or embed into another folder")
        if header["embedder"] != embedder.identity:
            problem = f"was embedded by {header['embedder']}, questions are to be by {embedder.identity}"
            raise ArtifactError(path, problem, "Embed it again")


@dataclass(frozen=True)
class _ShardWork:
    config: PassagesConfig
    passages: Passages
    embedder: Embedder
    rows: range

    @property
    def parts(self) -> list[range]:
        """The rows of each block."""
        first = self.rows.start
        cut = ranges(len(self.rows), self.config.passages_per_block)
        return [range(first + part.start, first + part.stop) for part in cut]

    def make(self, number: int, advance: Advance) -> Block:
        """Embed block `number`."""
        found = self.passages.at(self.parts[number])
        texts = [embedded_text(one, title=self.config.title, lowercase=self.config.lowercase) for one in found]
        vectors_ND = require_vectors(self.embedder, self.embedder.embed_passages(texts, advance), len(texts))
        return Block({"vectors": _stored(self.embedder, vectors_ND, self.config.dtype)})


def _embed(work: _ShardWork, path: Path, store: Path, header: dict[str, Any]) -> None:
    parts = work.parts
    blocks = BlockStore(
        directory=store / _BLOCKS / path.name,
        inputs=tuple(fingerprint(header | {"block": [part.start, part.stop]}) for part in parts),
        expected_rows=tuple(map(len, parts)),
        stage=_STAGE,
    )
    write_json(_header_path(store, path), header)
    Coordinator(store, stage=_STAGE).build(
        blocks, work.make, sizes=blocks.expected_rows, unit="passages", what=f"passages: embedding {path.name}"
    )
    # Streamed: a shard may be larger than memory.
    ids = (passage.id for part in parts for passage in work.passages.at(part))
    vectors = (blocks.take(number).arrays["vectors"] for number in range(len(parts)))
    shape = (len(work.rows), work.embedder.dimension)
    stream_shard(path, ids, vectors, shape, np.dtype(work.config.dtype))
    blocks.remove()


def _stored(embedder: Embedder, vectors_ND: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    most, limit = float(np.abs(vectors_ND).max(initial=0)), float(np.finfo(dtype).max)
    if most > limit:
        problem = f"gave a vector with a value of {most:g}; {dtype} holds up to {limit:g}"
        raise DataError(type(embedder).__name__, problem, "Set dtype=float32")
    return vectors_ND.astype(dtype)


def _header(config: PassagesConfig, passages: Passages, embedder: Embedder, rows: range) -> dict[str, Any]:
    """All that decides the bytes of a shard."""
    return {
        "passages": passages.fingerprint,
        "rows": [rows.start, rows.stop],
        "embedder": embedder.identity,
        # Batches follow from it, and their padding can move the last bit of a vector.
        "batch_tokens": config.embedder.batch_tokens,
        "block": config.passages_per_block,
        **{name: getattr(config, name) for name in ("lowercase", "title", "dtype")},
    }


def _header_path(store: Path, path: Path) -> Path:
    return store / HEADERS / f"{path.name}.json"


def _is_complete(path: Path, store: Path, header: dict[str, Any]) -> bool:
    """Whether the shard is there, as it would be made now.

    Raises:
        ArtifactError: It is there, and was made of something else.
    """
    if not path.exists():
        return False
    beside = _header_path(store, path)
    if not beside.exists():
        raise ArtifactError(path, "is there already, and was not made here", "Move it away, or use another output_dir")
    changed = differences(read_json(beside, f"Delete {path} and {beside}"), header)
    if changed:
        problem = f"was made of something else: {'; '.join(changed[:3])}"
        raise ArtifactError(path, problem, "Delete it to embed again, or use another output_dir")
    return True
