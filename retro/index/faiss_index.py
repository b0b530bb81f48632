"""Train, fill, store, read and search a Faiss index; the only module that knows Faiss's search parameters."""

# Dims in this file. N vectors   D dimension   Q queries   K neighbors

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retro.common.errors import ArtifactError
from retro.common.files import atomic_path
from retro.common.input_files import require_regular
from retro.common.progress import Progress
from retro.common.row_set import RowSet
from retro.index.codes import LISTS_FILE
from retro.index.config import EF_SEARCH, NPROBE, REFINE_FACTOR, IndexConfig
from retro.index.faiss_loader import (
    load_faiss,
    matrix_products,
    on_one_thread,
    selector_of,
    side_by_side,
    transformed,
    vector_by_vector,
)
from retro.index.index_choice import is_exact, is_graph
from retro.index.rerank import Hits
from retro.index.training import reason, train_index

log = logging.getLogger(__name__)

Float32 = NDArray[np.float32]

INDEX_FILE = "index.faiss"
_HEADER = struct.Struct("<4siq")
"""Kind, dimension and number of vectors, with which every Faiss file begins."""
_ADDED_AT_ONCE = 65_536
_WIDER = 4
"""By how much more is looked at where too little was found."""
_BATCH = 20
"""Queries from which exact search goes by matrix products, as Faiss itself does. Asked for some of its rows, though,
Faiss takes vector by vector: on 120,000 vectors of 384 values a query cost 25 times as much."""


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """How hard to look; each kind of index reads its own field."""

    nprobe: int
    ef_search: int
    refine_factor: int

    @classmethod
    def of(cls, config: IndexConfig) -> SearchSettings:
        """As the index stage's config says; where it leaves a value to be tuned, one that does for most indexes."""
        return cls(
            nprobe=config.nprobe or NPROBE,
            ef_search=config.ef_search or EF_SEARCH,
            refine_factor=config.refine_factor or REFINE_FACTOR,
        )


def fill_index(
    index: Any,
    factory: str,
    vectors_ND: NDArray[np.floating[Any]],
    train_rows: NDArray[np.int64],
    *,
    reproducible: bool,
) -> None:
    """Train an empty index on some vectors, then add all of them in row order, so that ids are rows.

    Args:
        index: From `policy.create_index`.
        factory: Its factory string.
        vectors_ND: [N, D] vectors of any float type; converted a slice at a time.
        train_rows: Rows to train on.
        reproducible: Build graphs on one thread.

    Raises:
        ConfigError: Faiss cannot train such an index on these vectors.
    """
    if not index.is_trained:
        train_index(index, factory, vectors_ND[train_rows], reproducible=reproducible)
    add_vectors(index, vectors_ND, reproducible=reproducible)


def add_vectors(index: Any, vectors_ND: NDArray[np.floating[Any]], *, reproducible: bool) -> None:
    """Add all vectors to a trained index in row order, a slice at a time, in this process.

    The bytes are those of `codes.add_codes`, for the kinds that have codes of their own.
    """
    faiss = load_faiss()
    alone = on_one_thread(faiss, when=reproducible and is_graph(faiss, index))
    with alone, vector_by_vector(faiss), Progress(len(vectors_ND), what="index: adding", unit="vectors") as bar:
        for start in range(0, len(vectors_ND), _ADDED_AT_ONCE):
            some = _float32(vectors_ND[start : start + _ADDED_AT_ONCE])
            behind, ready = transformed(faiss, index, some)
            behind.add(ready)
            _count(faiss, index, behind.ntotal)
            bar.advance(len(some))


def _count(faiss: Any, index: Any, total: int) -> None:
    """Tell an index, and the transforms within it, how many vectors were added behind them."""
    part = faiss.downcast_index(index)
    part.ntotal = total
    if isinstance(part, faiss.IndexPreTransform):
        _count(faiss, part.index, total)


def save_index(index: Any, path: Path) -> None:
    """Write the index, atomically.

    Raises:
        ArtifactError: The disk is full.
    """
    with atomic_path(path) as temporary:
        load_faiss().write_index(index, str(temporary))


def load_index(path: Path, rows: int, dimension: int, *, mapped: bool = False) -> Any:
    """Read an index and check that it holds what its manifest says.

    Args:
        path: The file.
        rows: Vectors that it has to hold.
        dimension: Their length.
        mapped: Leave the bytes in the file, for an index that is searched and not changed.

    Raises:
        ArtifactError: Faiss cannot read it, or it has another number of vectors or another dimension.
    """
    remedy = f"Delete {path.parent} and run `retro index` again"
    require_header(path, rows, dimension)
    try:
        faiss = load_faiss()
        # Lists in a file of their own are always mapped, and looked for beside the index, wherever that was moved to.
        beside = faiss.IO_FLAG_ONDISK_SAME_DIR | faiss.IO_FLAG_READ_ONLY
        alone = faiss.IO_FLAG_MMAP_IFC if mapped else 0
        index = faiss.read_index(str(path), beside if path.with_name(LISTS_FILE).exists() else alone)
    # What Faiss raises depends on where the damage is: a wrong length may also ask for all of the memory.
    except (RuntimeError, MemoryError) as error:
        raise ArtifactError(path, f"cannot be read by Faiss ({reason(error)})", remedy) from None
    if (index.ntotal, index.d) != (rows, dimension):
        found = f"holds {index.ntotal} vectors of {index.d} values, needed are {rows} of {dimension}"
        raise ArtifactError(path, found, remedy)
    return index


def require_header(path: Path, rows: int, dimension: int) -> None:
    """Check that a Faiss file begins as one of that many vectors does, without reading the rest.

    Raises:
        ArtifactError: It is missing, is not a file, or is of another number of vectors or another dimension.
    """
    remedy = f"Delete {path.parent} and run `retro index` again"
    require_regular(path, remedy)
    with path.open("rb") as stream:
        start = stream.read(_HEADER.size)
    if len(start) < _HEADER.size:
        raise ArtifactError(path, f"cannot be read by Faiss (it has {len(start)} bytes)", remedy)
    kind, found_dimension, found_rows = _HEADER.unpack(start)
    if not kind.startswith(b"I"):
        raise ArtifactError(path, f"cannot be read by Faiss (it begins with {kind!r})", remedy)
    if (found_rows, found_dimension) != (rows, dimension):
        found = f"holds {found_rows} vectors of {found_dimension} values, needed are {rows} of {dimension}"
        raise ArtifactError(path, found, remedy)


def search_index(
    index: Any,
    vectors_QD: NDArray[np.float32],
    k: int,
    rows: RowSet,
    settings: SearchSettings,
    least: int | None = None,
) -> Hits:
    """The `k` rows of greatest inner product with each query, best first.

    Where the lists that are looked into hold too few of the rows (copies of a text fill some lists and leave others
    empty), further ones are looked into, for the queries that need it.

    Args:
        index: A filled index.
        vectors_QD: [Q, D] queries.
        k: At least 1.
        rows: Only these rows are found.
        settings: How hard to look.
        least: How many have to be found, if there are as many rows: `k`, unless fewer will do.

    Returns:
        ids int64 [Q, k], -1 where the index found no more; scores float32 [Q, k], -inf there.
    """
    faiss = load_faiss()
    if len(vectors_QD) >= _BATCH and is_exact(faiss, index):
        flat = faiss.downcast_index(index)
        stored_ND = faiss.rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d).reshape(flat.ntotal, flat.d)
        return exact_hits(stored_ND, vectors_QD, k, rows)
    behind, queries_QD = transformed(faiss, index, _float32(vectors_QD))
    selector = selector_of(rows)
    scores_QK, ids_QK = _search(faiss, behind, queries_QD, k, _parameters(faiss, behind, selector, settings))
    needed = min(k if least is None else least, k, len(rows))
    short = np.flatnonzero(ids_QK[:, needed - 1] < 0) if needed else np.zeros(0, dtype=np.int64)
    while len(short) and _leaves_out(faiss, behind, settings):
        settings = replace(settings, nprobe=_WIDER * settings.nprobe, ef_search=_WIDER * settings.ef_search)
        parameters = _parameters(faiss, behind, selector, settings)
        scores_QK[short], ids_QK[short] = _search(faiss, behind, queries_QD[short], k, parameters)
        short = short[ids_QK[short, needed - 1] < 0]
    scores_QK[ids_QK < 0] = -np.inf
    return ids_QK, scores_QK


def _search(faiss: Any, index: Any, queries_QD: Float32, k: int, parameters: Any) -> tuple[Float32, NDArray[np.int64]]:
    # A query finds the same, whichever others are asked beside it.
    with vector_by_vector(faiss):
        return _in_parts(faiss, lambda part: index.search(queries_QD[part], k, params=parameters), queries_QD)


def _nearest(faiss: Any, queries_QD: Float32, vectors_ND: Float32, k: int) -> tuple[Float32, NDArray[np.int64]]:
    with matrix_products(faiss):
        return _in_parts(
            faiss, lambda part: faiss.knn(queries_QD[part], vectors_ND, k, faiss.METRIC_INNER_PRODUCT), queries_QD
        )


def _in_parts(
    faiss: Any, search: Callable[[slice], tuple[Float32, NDArray[np.int64]]], queries_QD: Float32
) -> tuple[Float32, NDArray[np.int64]]:
    """Scores and ids of a search that is made for some queries at a time, on one thread each."""
    count = len(queries_QD)
    if count < _BATCH:
        return search(slice(0, count))
    # Small parts keep all threads busy with few queries, large ones read the vectors less often: 65,536 vectors of 384
    # values took 2,048 queries 2.7 CPU-seconds in parts of 64, 1.8 in parts of 256 (EPYC with AVX2).
    found = side_by_side(faiss, search, count, 256 if count >= 1024 else 64)
    return np.concatenate([scores for scores, _ in found]), np.concatenate([ids for _, ids in found])


def exact_hits(vectors_ND: NDArray[np.floating[Any]], queries_QD: NDArray[np.float32], k: int, rows: RowSet) -> Hits:
    """The `k` rows of greatest inner product with each query, by comparing all; vectors are read once, in order.

    Returns:
        As `search_index`.
    """
    faiss, queries_QD = load_faiss(), _float32(queries_QD)
    best = np.full((len(queries_QD), k), -np.inf, dtype=np.float32)
    ids = np.full((len(queries_QD), k), -1, dtype=np.int64)
    for row_P in _pieces(rows):
        first, last = int(row_P[0]), int(row_P[-1])
        # A run of rows is not copied, unless to float32.
        some = _float32(vectors_ND[first : last + 1] if last - first + 1 == len(row_P) else vectors_ND[row_P])
        found, places = _nearest(faiss, queries_QD, some, min(k, len(some)))
        both, both_ids = np.hstack([best, found]), np.hstack([ids, row_P[places]])
        order = np.argsort(-both, axis=1, kind="stable")[:, :k]
        best, ids = np.take_along_axis(both, order, 1), np.take_along_axis(both_ids, order, 1)
    return ids, best


def _pieces(rows: RowSet) -> Iterator[NDArray[np.int64]]:
    """The row numbers in ascending order, some at a time."""
    for part in rows.ranges:
        for start in range(part.start, part.stop, _ADDED_AT_ONCE):
            row_P = np.arange(start, min(start + _ADDED_AT_ONCE, part.stop), dtype=np.int64)
            kept_P = row_P[rows.contains(row_P)]
            if len(kept_P):
                yield kept_P


def _parameters(faiss: Any, index: Any, selector: Any, settings: SearchSettings) -> Any:
    # A name of its own: the downcast does not keep the index alive.
    part = faiss.downcast_index(index)
    if isinstance(part, faiss.IndexPreTransform):
        inner = _parameters(faiss, part.index, selector, settings)
        return faiss.SearchParametersPreTransform(index_params=inner)
    if isinstance(part, faiss.IndexRefine):
        inner = _parameters(faiss, part.base_index, selector, settings)
        return faiss.IndexRefineSearchParameters(k_factor=float(settings.refine_factor), base_index_params=inner)
    if isinstance(part, faiss.IndexIVF):
        graph = isinstance(faiss.downcast_index(part.quantizer), faiss.IndexHNSW)
        coarse = {"quantizer_params": faiss.SearchParametersHNSW(efSearch=settings.ef_search)} if graph else {}
        return faiss.SearchParametersIVF(nprobe=min(settings.nprobe, part.nlist), sel=selector, **coarse)
    if isinstance(part, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(efSearch=settings.ef_search, sel=selector)
    return faiss.SearchParameters(sel=selector)


def _leaves_out(faiss: Any, index: Any, settings: SearchSettings) -> bool:
    """Whether a search under these settings may leave a list, or a node of a graph, unseen."""
    part = faiss.downcast_index(index)
    if isinstance(part, faiss.IndexPreTransform):
        return _leaves_out(faiss, part.index, settings)
    if isinstance(part, faiss.IndexRefine):
        return _leaves_out(faiss, part.base_index, settings)
    if isinstance(part, faiss.IndexIVF):
        return bool(settings.nprobe < part.nlist)
    return isinstance(part, faiss.IndexHNSW) and bool(settings.ef_search < part.ntotal)


def _float32(vectors: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    return np.ascontiguousarray(vectors, dtype=np.float32)
