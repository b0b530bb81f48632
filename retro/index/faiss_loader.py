"""Faiss, imported once, and how many threads it computes with.

A matrix product may round a row otherwise when it is divided among another number of threads, or when the row has
another place in the matrix: OpenBLAS does so on processors with AVX2 only. Workers that share a machine have fewer
threads each than one worker has, so whatever is stored goes through one of these two: vector by vector, or in parts of
a fixed size on one thread each, several parts at a time.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from importlib import metadata
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from retro.common.errors import DependencyError
from retro.common.row_set import RowSet

_DISTRIBUTIONS = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs")


def load_faiss() -> Any:
    """The faiss module.

    Raises:
        DependencyError: It is missing, is installed twice, or does not load.
    """
    installed = [name for name in _DISTRIBUTIONS if _is_installed(name)]
    if len(installed) > 1:
        # They own the same files, so removing either one breaks the other.
        raise DependencyError(
            "faiss",
            f"{' and '.join(installed)} are both installed and overwrite each other",
            f"Run `pip uninstall {' '.join(installed)}`, then install one of them",
        )
    remedy = 'Run `pip install "instruct-retro[cpu]"`, or `[gpu]` on a machine with CUDA'
    try:
        module = importlib.import_module("faiss")
    except ImportError as error:
        raise DependencyError("faiss", f"cannot be imported ({error})", remedy) from None
    if not hasattr(module, "index_factory"):
        raise DependencyError("faiss", "is installed in part: files are missing", f"Remove it. {remedy}")
    return module


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


T = TypeVar("T")

_NEVER = 2**31 - 1
_ALWAYS = 1


@contextmanager
def _one_thread(faiss: Any) -> Iterator[None]:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def on_one_thread(faiss: Any, *, when: bool) -> Any:
    """A context in which Faiss runs on one thread, if `when`."""
    return _one_thread(faiss) if when else nullcontext()


def side_by_side(faiss: Any, work: Callable[[slice], T], total: int, size: int) -> list[T]:
    """Work on `total` rows in parts of `size`, each part on one thread, as many at a time as Faiss has threads.

    Args:
        faiss: The module.
        work: Gets the rows of one part; called from several threads.
        total: Rows.
        size: Rows of a part; must not depend on the number of threads, or the bytes do.

    Returns:
        The result of each part, in order.
    """
    parts = [slice(start, min(start + size, total)) for start in range(0, total, size)]
    threads = min(faiss.omp_get_max_threads(), len(parts))
    if threads <= 1:
        with _one_thread(faiss):
            return [work(part) for part in parts]
    # OpenMP's number of threads belongs to the thread that sets it.
    with ThreadPoolExecutor(threads, initializer=faiss.omp_set_num_threads, initargs=(1,)) as pool:
        return list(pool.map(work, parts))


@contextmanager
def _compared_by_products_from(faiss: Any, values: int) -> Iterator[None]:
    before = faiss.cvar.distance_compute_blas_threshold
    faiss.cvar.distance_compute_blas_threshold = values
    try:
        yield
    finally:
        faiss.cvar.distance_compute_blas_threshold = before


def matrix_products(faiss: Any) -> Any:
    """A context in which a batch of queries is compared by matrix products, however small.

    From 1.15 on Faiss compares vector by vector until a call has 128,000 query values, 334 queries of 384. On 120,000
    vectors matrix products took a fifth of that time for 20 queries and a thirteenth for 100.
    """
    return _compared_by_products_from(faiss, _ALWAYS)


def vector_by_vector(faiss: Any) -> Any:
    """A context in which vectors are compared one at a time, so that none depends on those beside it.

    Assigning a vector of 384 values to one of 1,000 lists took 42 us so, and 16 us by matrix products (one thread of an
    EPYC with AVX2).
    """
    return _compared_by_products_from(faiss, _NEVER)


def apply_each(faiss: Any, transform: Any, vectors_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    """[N, D'] vectors after a transform, one vector at a time.

    A rotation of 384 values took 21 us a vector so, and 7 us as one matrix product (one thread of an EPYC with AVX2).
    """
    out_ND = np.empty((len(vectors_ND), transform.d_out), dtype=np.float32)
    with _one_thread(faiss):
        for vector_D, out_D in zip(vectors_ND, out_ND, strict=True):
            transform.apply_noalloc(1, faiss.swig_ptr(vector_D), faiss.swig_ptr(out_D))
    return out_ND


def transformed(faiss: Any, index: Any, vectors_ND: NDArray[np.float32]) -> tuple[Any, NDArray[np.float32]]:
    """Vectors after the transforms that stand before an index, and the index behind these.

    Args:
        faiss: The module.
        index: Trained; without transforms it and the vectors are given back as they are.
        vectors_ND: [N, D] vectors.

    Returns:
        The index behind the transforms, valid as long as `index` is, and [N, D'] vectors.
    """
    part = faiss.downcast_index(index)
    if not isinstance(part, faiss.IndexPreTransform):
        return part, vectors_ND
    for number in range(part.chain.size()):
        vectors_ND = apply_each(faiss, part.chain.at(number), vectors_ND)
    return transformed(faiss, part.index, vectors_ND)


# Dims in this file. T removed rows


_BITS = 8


def selector_of(rows: RowSet) -> Any:
    """A Faiss IDSelector for `rows`; it keeps the memory that it points to.

    A bitmap takes an eighth of a byte per row, 125 MB for a billion, and answers every question in one look. Chained
    selectors (ranges, and not removed) cost several calls per vector compared, and a hash table for what was removed.
    """
    one = rows.only_range
    if one is not None:
        return load_faiss().IDSelectorRange(one.start, one.stop)
    return _bitmap_selector(rows)


# Rows are asked for again with every batch of queries; two kinds of them, retrievable and all, are in use.
@lru_cache(maxsize=4)
def _bitmap_selector(rows: RowSet) -> Any:
    # The Python object of the selector holds a reference to the array, the C++ object only a pointer.
    return load_faiss().IDSelectorBitmap(bitmap_of(rows))


def bitmap_of(rows: RowSet) -> NDArray[np.uint8]:
    """uint8 [ceil(stop / 8)]: bit r % 8 of byte r // 8 is set where row r is in `rows`."""
    bits = np.zeros(-(-rows.stop // _BITS), dtype=np.uint8)
    for part in rows.ranges:
        _set_range(bits, part)
    byte_T, bit_T = rows.removed >> 3, (rows.removed & 7).astype(np.uint8)
    np.bitwise_and.at(bits, byte_T, ~np.left_shift(np.uint8(1), bit_T))
    return bits


def _set_range(bits: NDArray[np.uint8], part: range) -> None:
    first, last = part.start // _BITS, (part.stop - 1) // _BITS
    from_first = (0xFF << part.start % _BITS) & 0xFF
    up_to_last = 0xFF >> (_BITS - 1 - (part.stop - 1) % _BITS)
    if first == last:
        bits[first] |= from_first & up_to_last
        return
    bits[first] |= from_first
    bits[first + 1 : last] = 0xFF
    bits[last] |= up_to_last
