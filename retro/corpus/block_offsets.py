"""Where the rows of each block are in the finished corpus, so that a block can be recomputed and compared.

How large the blocks were decides no byte of the corpus, so this is in the report and not in the artifact.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from retro.common.artifacts import REPORT
from retro.common.block_stage import BlockWork
from retro.common.blocks import Arrays
from retro.common.errors import ArtifactError
from retro.common.files import read_json
from retro.corpus.config import CorpusConfig, SourceConfig
from retro.corpus.files import Source, resolve
from retro.corpus.hub import local_path_if_there
from retro.corpus.manifest import (
    BLOCKS,
    TOKENIZER,
    built_in_text,
    names_path,
    record_path,
    rejects_path,
    require_unchanged,
)
from retro.corpus.scan import Scan, ScanWork
from retro.corpus.token_files import TokenFile
from retro.corpus.tokenize import TokenWork
from retro.tokenizers.tokenizer import load_tokenizer

_REMEDY = "Run `retro corpus` with --redo, if its blocks are to be compared"


class BlockOffset(NamedTuple):
    """How much of its source's files a block made."""

    documents: int
    tokens: int
    names_bytes: int
    rejects_bytes: int


def write_block_offsets(work: TokenWork, sources: Sequence[Source], block_bytes: int) -> dict[str, Any]:
    """What to write about the blocks; sources whose blocks an earlier run made and removed are left out."""
    extents = {}
    for number, source in enumerate(sources):
        blocks = work.of_source(number)
        if all(work.store.path(block).exists() for block in blocks):
            counts = [work.store.counts(block) for block in blocks]
            extents[source.name] = [[count[name] for name in BlockOffset._fields] for count in counts]
    return {"block_bytes": block_bytes, "extents": extents}


@dataclass(frozen=True, kw_only=True)
class SourceRows:
    """The rows of one source's blocks, read from its files."""

    out: Path
    source: str
    extents: tuple[BlockOffset, ...]

    @classmethod
    def read(cls, out: Path, source: str) -> Self:
        """What the report in `out` says of a source.

        Raises:
            ArtifactError: It says nothing.
        """
        known = read_json(out / REPORT, _REMEDY).get("blocks", {}).get("extents", {})
        if source not in known:
            raise ArtifactError(out / REPORT, f"does not tell which blocks {source!r} was made of", _REMEDY)
        return cls(out=out, source=source, extents=tuple(BlockOffset(*extent) for extent in known[source]))

    def arrays(self, block: int) -> Arrays:
        """The arrays of block number `block` of the source, as `tokenize.tokenize` gives them.

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
    def _bounds(self) -> list[BlockOffset]:
        """Where each block begins, and where the last one ends."""
        return list(itertools.accumulate(self.extents, _sum, initial=BlockOffset(0, 0, 0, 0)))

    @cached_property
    def _file(self) -> TokenFile:
        return TokenFile(self.out / self.source)


def _sum(one: BlockOffset, other: BlockOffset) -> BlockOffset:
    return BlockOffset(*(a + b for a, b in zip(one, other, strict=True)))


def _bytes(path: Path, start: int, end: int) -> NDArray[np.uint8]:
    with path.open("rb") as stream:
        stream.seek(start)
        return np.frombuffer(stream.read(end - start), dtype=np.uint8)


log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CorpusWork(BlockWork):
    """The blocks of a corpus, whose rows stand in token files and lines, not in HDF5 datasets."""

    rows: Callable[[int], Arrays]

    def stored(self, number: int) -> Arrays:
        """The rows of block `number` as the finished corpus holds them now."""
        return self.rows(number)


def open_work(config: CorpusConfig, out: Path) -> BlockWork:
    """The blocks of the corpus in `out` whose input is still there.

    Raises:
        ArtifactError: Its input has changed, or its report does not tell what its blocks were.
        DataError: The input cannot be read.
    """
    sources = [source for source in (_find(one, out) for one in config.sources) if source is not None]
    known = read_json(out / REPORT, "Run `retro corpus` with --redo").get("blocks", {})
    config = config.model_copy(update={"block_bytes": known.get("block_bytes", config.block_bytes)})
    scans = _scan_sources(sources, config.block_bytes)
    for source, scan in zip(sources, scans, strict=True):
        record = record_path(out, source.name)
        require_unchanged(record, source.name, read_json(record, "Run `retro corpus` again")["inputs"], scan.identity)
    work = TokenWork(config, sources, scans, load_tokenizer(out / TOKENIZER), out / BLOCKS / "tokens")
    places = [(source, block) for source in range(len(sources)) for block in range(len(work.of_source(source)))]
    rows = {source: SourceRows.read(out, sources[source].name) for source in {source for source, _ in places}}

    def name(number: int) -> str:
        source, block = places[number]
        return f"number {block} of {sources[source].name}"

    return CorpusWork(
        directory=out,
        store=work.store,
        sizes=work.sizes,
        unit="bytes",
        make=work.make,
        places=lambda number: [],
        names=name,
        rows=lambda number: rows[places[number][0]].arrays(places[number][1]),
    )


def _find(source: SourceConfig, out: Path) -> Source | None:
    given = source.path or built_in_text(out, source.name)
    path = local_path_if_there(given)
    if path is not None:
        return resolve(source, path)
    log.warning("corpus: %s is gone, so its blocks cannot be made once more", given)
    return None


def _scan_sources(sources: list[Source], block_bytes: int) -> list[Scan]:
    scan = ScanWork(sources, block_bytes, Path(BLOCKS))
    return scan.collect({}, lambda number: scan.make(number, lambda count: None))
