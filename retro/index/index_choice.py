"""Which index fits a database, and whether there are vectors enough to train it."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator
from typing import Any

import psutil

from retro.common.errors import ConfigError
from retro.index.config import IndexConfig
from retro.index.faiss_loader import load_faiss

log = logging.getLogger(__name__)

SETTING = "index.faiss"
_LONGEST = 200
EXACT_UP_TO = 200_000
"""Rows up to which exact search is the default: two cores answer 200,000 queries of 384 values in under 5 minutes."""
SCALAR_UP_TO = 10_000_000
"""Rows up to which 8 bits per value are the default: 4 GB of vectors of 384 values. Above, one bit per value."""
GOOD_VECTORS_PER_CENTROID = 39
"""Faiss's own rule: fewer training vectors per centroid give a poor clustering."""


def choose_index(rows: int, train_vectors: int, dimension: int) -> str:
    """The default factory string for a database.

    Args:
        rows: Chunks to index.
        train_vectors: Chunks that may train the index.
        dimension: Length of the vectors.
    """
    if rows <= EXACT_UP_TO:
        return "Flat"
    lists = min(4 * math.isqrt(rows), train_vectors // GOOD_VECTORS_PER_CENTROID)
    if lists < 2:
        return "Flat"
    # A random rotation spreads what the vectors say evenly over their bits; a graph finds the lists to search, because
    # comparing a query with all centroids would by then cost more than searching them.
    return f"IVF{lists},SQ8" if rows <= SCALAR_UP_TO else f"RR{dimension},IVF{lists}_HNSW32,RaBitQ"


def ranks_again(faiss: Any, index: Any, config: IndexConfig, factory: str) -> bool:
    """Whether candidates of `index` are to be ranked again by the kept embeddings.

    Raises:
        ConfigError: They are, but the embeddings are not to be kept.
    """
    if is_exact(faiss, index) or config.refine == "off":
        return False
    if config.refine == "auto" and not _has_bit_codes(faiss, index):
        return False
    if not config.keep_embeddings:
        need = f"needs to be true for {factory}, whose candidates are ranked by the embeddings; or set refine = 'off'"
        raise ConfigError("index.keep_embeddings", config.keep_embeddings, need)
    return True


def _has_bit_codes(faiss: Any, index: Any) -> bool:
    part = faiss.downcast_index(index)
    if isinstance(part, faiss.IndexPreTransform):
        return _has_bit_codes(faiss, part.index)
    return "RaBitQ" in type(part).__name__


def create_index(factory: str, dimension: int, train_vectors: int, *, by_rows: bool = True) -> Any:
    """An empty Faiss index for inner products, known to be trainable and to search a range of rows.

    Args:
        factory: A Faiss factory string.
        dimension: Length of the vectors.
        train_vectors: How many vectors there will be to train it.
        by_rows: Whether it needs to be able to search some of its rows.

    Raises:
        ConfigError: It does not fit into memory, Faiss cannot make it, it cannot be restricted to a range of rows
            (neighbors come from train chunks only), or there are fewer training vectors than it has centroids.
    """
    _require_possible(factory, dimension, train_vectors)
    faiss = load_faiss()
    try:
        # Kept as it comes: its downcast does not own it, and would dangle.
        index = faiss.index_factory(dimension, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].rpartition(": ")[2]
        need = f"needs a Faiss factory string for vectors of {dimension} and inner products (Faiss: {reason})"
        raise ConfigError(SETTING, factory, need) from None
    if by_rows and not searches_rows(faiss, index):
        need = "needs an index that can search a range of rows: Flat, SQ8, RaBitQ, IVF… or HNSW…, with OPQ, RFlat …"
        raise ConfigError(SETTING, factory, need)
    _check_vectors(faiss, index, factory, train_vectors)
    return index


def _require_possible(factory: str, dimension: int, train_vectors: int) -> None:
    """Raise ConfigError for numbers that cannot be, before Faiss takes memory for them: an empty index of 10^8 lists
    takes 13 GB."""
    lists = [int(number) for number in re.findall(r"IVF(\d{1,18})", factory)]
    _require_vectors(factory, max(lists, default=0), train_vectors)
    bytes_needed = sum(_least_bytes(factory, dimension, train_vectors))
    free = psutil.virtual_memory().available
    if len(factory) > _LONGEST or bytes_needed > free:
        what = f"about {bytes_needed / 1e9:,.0f} GB for its centroids, tables and links, {free / 1e9:,.1f} GB are free"
        raise ConfigError(SETTING, factory[:_LONGEST], f"needs {what}; use 'auto', or fewer lists, bits or links")


def _least_bytes(factory: str, dimension: int, vectors: int) -> Iterator[int]:
    """Bytes that the parts of an index take at least, each by the numbers in its name; numbers are at most 10^18."""
    for bits in re.findall(r"IMI2x(\d{1,18})", factory):
        yield 32 << min(2 * int(bits), 64)
    for kind, count, bits in re.findall(r"(PQ|RQ|LSQ|PLSQ|PRQ)(\d{1,18})(?:x(\d{1,18}))?", factory):
        yield (1 if kind == "PQ" else int(count)) * 4 * dimension << min(int(bits or 8), 64)
    for size in re.findall(r"(?:PCA[RW]*|RR|ITQ|Pad|OPQ\d{1,18}_)(\d{1,18})", factory):
        yield 4 * dimension * int(size)
    for lists, links in re.findall(r"(IVF\d{1,18}_)?(?:HNSW|NSG)(\d{1,18})", factory):
        yield 8 * int(links) * (int(lists[3:-1]) if lists else max(vectors, 1))
    if re.search(r"\d{19}", factory):
        yield 1 << 64


def _check_vectors(faiss: Any, index: Any, factory: str, train_vectors: int) -> None:
    needed = vectors_needed(faiss, index)
    _require_vectors(factory, needed, train_vectors)
    if train_vectors < needed * GOOD_VECTORS_PER_CENTROID and needed > 1:
        log.warning(
            "%s = %r: %d training vectors for %d centroids; %d would cluster well",
            *(SETTING, factory, train_vectors, needed, needed * GOOD_VECTORS_PER_CENTROID),
        )


def _require_vectors(factory: str, needed: int, train_vectors: int) -> None:
    if train_vectors < needed:
        raise ConfigError(
            SETTING,
            factory,
            f"needs at least {needed} training vectors ({needed * GOOD_VECTORS_PER_CENTROID} to be good), "
            f"the train split has {train_vectors}; use 'auto', or fewer lists or bits",
        )


def vectors_needed(faiss: Any, index: Any) -> int:
    """Fewest training vectors with which `index.train` runs: the size of its largest codebook."""
    # A name of its own, here and below: the downcast does not keep the index alive.
    part = faiss.downcast_index(index)
    if isinstance(part, faiss.IndexPreTransform):
        chain = [faiss.downcast_VectorTransform(part.chain.at(place)) for place in range(part.chain.size())]
        return max([vectors_needed(faiss, part.index), *(_needed_by_transform(faiss, step) for step in chain)])
    if isinstance(part, faiss.IndexRefine):
        return vectors_needed(faiss, part.base_index)
    if isinstance(part, faiss.IndexHNSW):
        return vectors_needed(faiss, part.storage)
    needed = [0 if part.is_trained else 1]
    if isinstance(part, faiss.IndexIVF):
        needed.append(int(part.nlist))
    if hasattr(part, "pq"):
        needed.append(int(part.pq.ksub))
    return max(needed)


def _needed_by_transform(faiss: Any, transform: Any) -> int:
    if isinstance(transform, faiss.OPQMatrix):
        # OPQ trains a product quantizer of 8 bits on the way, whatever the index after it has.
        return 256
    return int(transform.d_in) if isinstance(transform, faiss.PCAMatrix) else 1


def searches_rows(faiss: Any, index: Any) -> bool:
    """Whether a search of the index can be restricted to some of its rows."""
    part = faiss.downcast_index(index)
    if isinstance(part, faiss.IndexPreTransform):
        return searches_rows(faiss, part.index)
    if isinstance(part, faiss.IndexRefine):
        return searches_rows(faiss, part.base_index)
    kinds = ("IndexFlat", "IndexIVF", "IndexHNSW", "IndexScalarQuantizer", "IndexRaBitQ")
    return isinstance(part, tuple(getattr(faiss, kind) for kind in kinds if hasattr(faiss, kind)))


def is_exact(faiss: Any, index: Any) -> bool:
    """Whether the index compares a query with every full vector."""
    return isinstance(faiss.downcast_index(index), faiss.IndexFlat)


def is_graph(faiss: Any, index: Any) -> bool:
    """Whether some part of the index is an HNSW graph."""
    part = faiss.downcast_index(index)
    for name in ("index", "base_index", "quantizer"):
        inner = getattr(part, name, None)
        if isinstance(inner, faiss.Index) and is_graph(faiss, inner):
            return True
    return isinstance(part, faiss.IndexHNSW)
