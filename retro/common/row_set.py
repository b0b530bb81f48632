"""Which rows of a database may be found: a few ranges, less the rows that were removed.

A database may have billions of rows, so ranges stay ranges; only what was removed is a list.
"""

# Dims in this file. N row numbers asked for   T removed rows   G ranges

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]


def _none() -> Int64:
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class RowSet:
    """A set of row numbers. Make it with `Rows.of`.

    Raises:
        ValueError: Ranges have another step than 1, overlap or are not in order; removed rows are not in ascending
            order, or are outside the ranges.
    """

    ranges: tuple[range, ...]
    """Ascending, without overlap, none empty."""
    removed: Int64 = field(default_factory=_none)
    """[T] ascending, each in one of `ranges`."""

    def __post_init__(self) -> None:
        for before, after in zip(self.ranges, self.ranges[1:], strict=False):
            if before.stop > after.start:
                raise ValueError(f"{before} and {after} overlap or are not in order")
        if any(part.step != 1 or part.start < 0 or not part for part in self.ranges):
            raise ValueError(f"needs ranges of row numbers with step 1, none empty, got {self.ranges}")
        if self.removed.dtype != np.int64 or (np.diff(self.removed) <= 0).any():
            raise ValueError("removed rows need to be int64 and ascending")
        if not self._in_ranges(self.removed).all():
            raise ValueError("removed rows need to lie in the ranges")

    @classmethod
    def of(cls, *ranges: range, removed: Iterable[int] | Int64 = ()) -> RowSet:
        """The rows of `ranges`, which need to be in ascending order, less `removed`, in any order and from anywhere.

        Ranges that touch are joined, empty ones dropped.
        """
        joined: list[range] = []
        for part in ranges:
            if part and joined and joined[-1].stop == part.start:
                part = range(joined.pop().start, part.stop)
            joined += [part] if part else []
        gone_T = np.unique(np.asarray(removed if isinstance(removed, np.ndarray) else list(removed), dtype=np.int64))
        return cls(tuple(joined), gone_T[cls(tuple(joined)).contains(gone_T)])

    def __len__(self) -> int:
        return sum(map(len, self.ranges)) - len(self.removed)

    @property
    def stop(self) -> int:
        """One more than the greatest row of the ranges; 0 for no rows."""
        return self.ranges[-1].stop if self.ranges else 0

    @property
    def only_range(self) -> range | None:
        """The rows as one range, where they are one."""
        if len(self.ranges) > 1 or len(self.removed):
            return None
        return self.ranges[0] if self.ranges else range(0)

    def contains(self, ids_N: Int64) -> NDArray[np.bool_]:
        """True where a row number is one of these; same shape as `ids_N`. -1 never is."""
        inside_N = self._in_ranges(ids_N)
        if len(self.removed):
            place_N = np.minimum(np.searchsorted(self.removed, ids_N), len(self.removed) - 1)
            inside_N &= self.removed[place_N] != ids_N
        return inside_N

    def within(self, part: range) -> RowSet:
        """Those of these rows that are in `part`."""
        cut = [range(max(one.start, part.start), min(one.stop, part.stop)) for one in self.ranges]
        first, last = np.searchsorted(self.removed, [part.start, part.stop])
        return RowSet(tuple(one for one in cut if one), self.removed[first:last])

    def shifted(self, by: int) -> RowSet:
        """These rows with `by` added to each."""
        moved = tuple(range(one.start + by, one.stop + by) for one in self.ranges)
        return RowSet(moved, self.removed + by)

    def _in_ranges(self, ids_N: Int64) -> NDArray[np.bool_]:
        if not self.ranges:
            return np.zeros(np.shape(ids_N), dtype=np.bool_)
        starts_G, stops_G = self._edges
        place_N = np.searchsorted(starts_G, ids_N, side="right") - 1
        inside_N: NDArray[np.bool_] = (place_N >= 0) & (ids_N < stops_G[place_N])
        return inside_N

    @cached_property
    def _edges(self) -> tuple[Int64, Int64]:
        starts = np.array([part.start for part in self.ranges], dtype=np.int64)
        return starts, np.array([part.stop for part in self.ranges], dtype=np.int64)
