"""Where the rows of each block lie in the finished corpus, so that a block can be made once more and compared.

How large the blocks were decides no byte of the corpus, so this stands in the report and not in the artifact.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from retro.common.artifacts import REPORT
from retro.common.blocks import Arrays
from retro.common.errors import ArtifactError
from retro.common.files import read_json
from retro.corpus.blocks import TokenWork
from retro.corpus.files import Source
from retro.corpus.places import names_path, rejects_path
from retro.corpus.token_files import TokenFile

_REMEDY = "Run `retro corpus` with --redo, if its blocks are to be compared"


class Extent(NamedTuple):
    """How much of its source's files a block made."""

    documents: int
    tokens: int
    names_bytes: int
    rejects_bytes: int


def write_extents(work: TokenWork, sources: Sequence[Source], block_bytes: int) -> dict[str, Any]:
    """What to write about the blocks; sources whose blocks an earlier run made and removed are left out."""
    extents = {}
    for number, source in enumerate(sources):
        blocks = work.of_source(number)
        if all(work.store.path(block).exists() for block in blocks):
            counts = [work.store.counts(block) for block in blocks]
            extents[source.name] = [[count[name] for name in Extent._fields] for count in counts]
    return {"block_bytes": block_bytes, "extents": extents}


@dataclass(frozen=True, kw_only=True)
class SourceRows:
    """The rows of one source's blocks, read from its files."""

    out: Path
    source: str
    extents: tuple[Extent, ...]

    @classmethod
    def read(cls, out: Path, source: str) -> Self:
        """What the report in `out` says of a source.

        Raises:
            ArtifactError: It says nothing.
        """
        known = read_json(out / REPORT, _REMEDY).get("blocks", {}).get("extents", {})
        if source not in known:
            raise ArtifactError(out / REPORT, f"does not tell which blocks {source!r} was made of", _REMEDY)
        return cls(out=out, source=source, extents=tuple(Extent(*extent) for extent in known[source]))

    def arrays(self, block: int) -> Arrays:
        """The arrays of block number `block` of the source, as `token_block.tokenise` gives them.

        Raises:
            ArtifactError: A file is missing or has not the size that the blocks had together.
        """
        first, last = self._bounds[block], self._bounds[block + 1]
        starts = self._file.document_starts[first.documents : last.documents + 1]
        arrays: dict[str, NDArray[Any]] = {
            "tokens": np.asarray(self._file.tokens[first.tokens : last.tokens]),
            "lengths": np.diff(starts),
            "names": _bytes(names_path(self.out, self.source), first.names_bytes, last.names_bytes),
            "rejects": _bytes(rejects_path(self.out, self.source), first.rejects_bytes, last.rejects_bytes),
        }
        return {name: array[None] for name, array in arrays.items()}

    @cached_property
    def _bounds(self) -> list[Extent]:
        """Where each block begins, and where the last one ends."""
        return list(itertools.accumulate(self.extents, _sum, initial=Extent(0, 0, 0, 0)))

    @cached_property
    def _file(self) -> TokenFile:
        return TokenFile(self.out / self.source)


def _sum(one: Extent, other: Extent) -> Extent:
    return Extent(*(a + b for a, b in zip(one, other, strict=True)))


def _bytes(path: Path, start: int, end: int) -> NDArray[np.uint8]:
    with path.open("rb") as stream:
        stream.seek(start)
        return np.frombuffer(stream.read(end - start), dtype=np.uint8)
