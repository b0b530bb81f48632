"""Read what perplexity measured: its table, and the losses of single chunks.

`chunks.h5` holds, for each source of the corpus, one row per chunk of the stream and a last one for the tokens behind
the last whole chunk:

    <source>/bytes                       int64, UTF-8 bytes of the tokens that are predicted
    <source>/<model>/<neighbors>/loss    float64, summed cross-entropy in nats
    <source>/<model>/<neighbors>/tokens  int64, tokens predicted; fewer than the chunk has where not all were asked for

The first token of a stream is never predicted; every other one is, once.
"""

# Dims in this file. C chunks of a source, and one more

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retro.common.artifacts import Manifest, read_manifest, require_parent
from retro.common.errors import ArtifactError
from retro.common.files import read_json
from retro.common.hdf5 import map_column

STAGE = "perplexity"
TABLE_FILE, CHUNKS_FILE = "perplexity.json", "chunks.h5"
IN_CONTEXT_FILE = "in_context.json"
"""What was measured with passages in the prompt."""
LOSS, TOKENS, BYTES = "loss", "tokens", "bytes"


@dataclass(frozen=True)
class Perplexities:
    """The artifact of the perplexity stage."""

    directory: Path
    manifest: Manifest
    split: str
    """valid or test."""
    rows: tuple[tuple[str, str], ...]
    """Model, and the neighbors it was given, in the table's order."""

    @classmethod
    def open(cls, directory: Path, parents: Mapping[str, Manifest]) -> Perplexities:
        """Open what was measured on these parents.

        Raises:
            ArtifactError: The stage did not finish, kept no losses of chunks, or measured on other data.
        """
        manifest = read_manifest(directory, STAGE)
        for name in sorted(set(parents) & set(manifest.parents)):
            require_parent(directory, manifest, name, parents[name])
        if CHUNKS_FILE not in manifest.files:
            problem = "was measured before losses of single chunks were kept"
            raise ArtifactError(directory, problem, f"Delete it and run `retro {STAGE}` again; nothing is trained anew")
        table = read_json(directory / TABLE_FILE, f"Run `retro {STAGE}` with --redo")
        rows = tuple((str(row["model"]), str(row["neighbors"])) for row in table["rows"])
        return cls(directory, manifest, str(table["split"]), rows)

    def bytes_of(self, source: str) -> NDArray[np.int64]:
        """[C] UTF-8 bytes of the predicted tokens of each chunk."""
        counts: NDArray[np.int64] = self._column(f"{source}/{BYTES}")
        return counts

    def losses(self, source: str, row: tuple[str, str]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """[C] summed loss in nats and [C] tokens predicted, of each chunk."""
        group = f"{source}/{'/'.join(row)}"
        return self._column(f"{group}/{LOSS}"), self._column(f"{group}/{TOKENS}")

    def _column(self, name: str) -> NDArray[Any]:
        return map_column(self.directory / CHUNKS_FILE, name, f"Delete {self.directory} and run `retro {STAGE}` again")
