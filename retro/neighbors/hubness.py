"""How evenly neighbors are spread over the database: a few rows found by many queries are hubs.

Hubs are a known weakness of nearest neighbors in many dimensions (Radovanović et al. 2010): boilerplate becomes
everybody's neighbor, and a model that always reads the same text learns to read nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retro.common.row_set import RowSet


def neighbor_counts(ids: NDArray[np.int64], rows: int = 0) -> NDArray[np.int64]:
    """How often each row is a neighbor.

    Args:
        ids: [...] rows of the database; -1 is none.
        rows: Rows of the database; without it the result ends at the last row found.

    Returns:
        int64 [rows].
    """
    found = ids[ids >= 0]
    return np.bincount(found.ravel(), minlength=rows).astype(np.int64)


def counts_of(rows: RowSet, counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The counts of some rows: of those that may be neighbors, say.

    Args:
        rows: Whose.
        counts: As `neighbor_counts` gives them; it may end before the last row.
    """
    whole = np.pad(counts, (0, max(rows.stop - len(counts), 0)))
    ids = np.concatenate([np.empty(0, dtype=np.int64), *(np.arange(part.start, part.stop) for part in rows.ranges)])
    found: NDArray[np.int64] = whole[ids[rows.contains(ids)]]
    return found


@dataclass(frozen=True, kw_only=True)
class Hubness:
    """Numbers about the counts of rows that may be neighbors."""

    never_found: float
    """Share of the rows that are nobody's neighbor."""
    most: int
    """The greatest count."""
    mean: float
    gini: float
    """0: all rows are found equally often; towards 1: one row is found by all."""
    skewness: float
    """Third standardised moment of the counts, the usual measure of hubness; 0 where all counts are equal."""


def hubness(counts: NDArray[np.int64]) -> Hubness:
    """Numbers about the counts of the rows that may be neighbors, at least one row.

    Raises:
        ValueError: There is no row.
    """
    if not len(counts):
        raise ValueError("needs at least one row")
    mean = float(counts.mean())
    deviation = counts - mean
    spread = float(np.sqrt(np.mean(deviation**2)))
    return Hubness(
        never_found=round(float((counts == 0).mean()), 4),
        most=int(counts.max()),
        mean=round(mean, 4),
        gini=round(_gini(counts), 4),
        skewness=round(float(np.mean(deviation**3)) / spread**3, 4) if spread > 0 else 0.0,
    )


def _gini(counts: NDArray[np.int64]) -> float:
    total = int(counts.sum())
    if not total:
        return 0.0
    ordered = np.sort(counts).astype(np.float64)
    rank = np.arange(1, len(ordered) + 1)
    return float(2 * (rank * ordered).sum() / (len(ordered) * total) - (len(ordered) + 1) / len(ordered))
