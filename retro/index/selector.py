"""Rows as Faiss asks for them: one comparison where they are one range, else one bit per row."""

# Dims in this file. T removed rows

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retro.common.row_set import RowSet
from retro.index.faiss_loader import load_faiss

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
