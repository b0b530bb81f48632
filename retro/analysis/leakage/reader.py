"""Read the overlaps of held-out chunks with training text."""

# Dims in this file. C chunks of a source   K neighbors saved

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retro.analysis.leakage.config import STAGE
from retro.common.artifacts import Manifest, read_manifest
from retro.common.hdf5 import map_column

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
