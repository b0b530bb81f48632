"""Files mapped into memory, and what to tell the kernel about one that is larger than memory.

By default the kernel reads on behind every page that it misses. For a file that fits into memory that is what one
wants. For rows at random places of a larger one it fetches megabytes for each of them and waits for one row after the
other; advised that accesses are random, and which rows are wanted before they are touched, it reads those pages alone
and many at a time.
"""

# Dims in this file. N runs of elements

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Advice = Literal["auto", "plain", "random"]
"""How mapped files are read: `plain` lets the kernel read ahead, `random` asks for wanted rows beforehand, `auto` is
`random` for files that are together larger than the memory that is free."""


def at_random(advice: Advice, size: int) -> bool:
    """Whether files of `size` bytes in all are read at random."""
    if advice != "auto":
        return advice == "random"
    import psutil

    return bool(size > psutil.virtual_memory().available)


class MappedFile:
    """One run of elements in a file, read-only.

    Attributes:
        array: [elements] what is mapped.
        random: Whether `will_need` has something to do.
    """

    def __init__(self, path: Path, dtype: np.dtype[Any], elements: int, *, offset: int = 0) -> None:
        """Map `elements` of `dtype` from byte `offset` on; the file must hold them."""
        self.array: NDArray[Any] = np.zeros(0, dtype=dtype)
        self.random = False
        self._offset = offset
        self._map: mmap.mmap | None = None
        if elements:
            with path.open("rb") as stream:
                self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            # As a plain array: numpy's memmap class costs some microseconds at every indexing.
            self.array = np.frombuffer(self._map, dtype=dtype, count=elements, offset=offset)

    def advise(self, *, random: bool) -> None:
        """Say whether rows will be read at random places, or one after the other."""
        if self._map is not None:
            self.random = random
            self._map.madvise(mmap.MADV_RANDOM if random else mmap.MADV_NORMAL)

    def will_need(self, start_N: NDArray[np.int64], count_N: NDArray[np.int64]) -> None:
        """Have runs of elements read in the background; nothing for a file that is not read at random.

        Args:
            start_N: [N] first elements.
            count_N: [N] elements of each run.
        """
        if self._map is None or not self.random:
            return
        size = self.array.itemsize
        first_N = (self._offset + start_N * size) // mmap.PAGESIZE * mmap.PAGESIZE
        bytes_N = self._offset + (start_N + count_N) * size - first_N
        for first, count in zip(first_N.tolist(), bytes_N.tolist(), strict=True):
            self._map.madvise(mmap.MADV_WILLNEED, first, count)
