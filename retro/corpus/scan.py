"""One pass over the bytes of the input, before anything is tokenized: sizes, checksums, and where files may be split.

Cuts are between lines, counted in bytes from the file's start. What follows a cut must be read as it would be in the
whole file, so each layout has its own rule for the line that may stand first.

It gives each file's SHA-256, by which changed input is noticed, and where the file may be cut, with the number of
the line that is there: so every part knows the lines it holds, and error messages and made-up ids name the same
line however the input is cut. Groups of files are scanned in blocks, so workers share this too.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retro.common.artifacts import fingerprint
from retro.common.blocks import Block, BlockStore
from retro.common.errors import DataError
from retro.corpus.files import BOM, Advance, Source, is_compressed, is_heading, open_stored
from retro.corpus.folder import InputFile
from retro.corpus.layouts import Span
from retro.corpus.manifest import Checksums, Identity, stamp_of
from retro.corpus.reader import STAGE
from retro.corpus.tables import TABLES, table_parts

Rule = Callable[[bytes, bytes, bytes], bool]
"""Whether a part may begin with the second of three lines: previous, this, following."""


def rule_of(source: Source, stream: BinaryIO) -> Rule | None:
    """How a file of this source may be cut; None where it is one piece.

    Args:
        source: Whose layout decides.
        stream: The file, uncompressed; read only where its own beginning decides.
    """
    if source.kind in ("jsonl", "tsv"):
        return _any_line
    if source.kind == "wikitext":
        return _headings(stream)
    return {"line": _any_line, "blank_line": _after_blank_line}.get(source.unit)


def _any_line(previous: bytes, line: bytes, following: bytes) -> bool:
    return True


def _after_blank_line(previous: bytes, line: bytes, following: bytes) -> bool:
    return not previous.strip()


def _headings(stream: BinaryIO) -> Rule | None:
    """Cut before a heading of the kind that the file's first heading has.

    The reader learns from the first heading it sees whether blank lines must follow them; before a heading of the
    same kind a part learns the same. No cut after a heading: whether that one counts depends on the line after it.
    """
    stream.seek(0)
    first = stream.readline().removeprefix(BOM)
    lines = itertools.pairwise(itertools.chain([first], stream, [b""]))
    spaced = next((not following.strip() for line, following in lines if is_heading(line)), None)
    if spaced is None:
        return None

    def before_heading(previous: bytes, line: bytes, following: bytes) -> bool:
        return is_heading(line) and (not following.strip()) == spaced and not is_heading(previous)

    return before_heading


def split_points(stream: BinaryIO, size: int, block_bytes: int, rule: Rule) -> Iterator[int]:
    """Byte offsets at which the parts of a file begin, 0 among them, in ascending order.

    Args:
        stream: The file, uncompressed.
        size: Its bytes.
        block_bytes: Bytes that a part has at least, but for the last.
        rule: Where it may be cut.
    """
    at: int | None = 0
    while at is not None:
        yield at
        at = _next_cut(stream, at + block_bytes, size, rule)


def _next_cut(stream: BinaryIO, wanted: int, size: int, rule: Rule) -> int | None:
    """The first place from `wanted` on where the file may be cut."""
    if wanted >= size:
        return None
    # One byte earlier: when `wanted` itself begins a line, the rest of the line before it is its line break alone.
    stream.seek(wanted - 1)
    at = wanted - 1 + len(stream.readline())
    # The line that was cut into is unknown, so it counts as one that forbids: at worst the cut comes a little later.
    previous, line = b"= unknown =", stream.readline()
    if rule is _any_line:
        return at if line else None
    while line:
        following = stream.readline()
        if rule(previous, line, following):
            return at
        at += len(line)
        previous, line = line, following
    return None


_GROUP_BYTES = 1 << 28
_GROUP_FILES = 10_000
_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class FileGroup:
    """Consecutive files of one source that are scanned together."""

    source: int
    files: range
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What the scan found in one source."""

    identity: Identity
    """Name, size and SHA-256 of each file."""
    spans: tuple[Span, ...]
    """Parts of the source, in order; together they are all of it."""
    sizes: tuple[int, ...]
    """Bytes of each part as the file holds them, which may be compressed."""


class ScanWork:
    """The scan of all sources, as blocks of file groups."""

    def __init__(self, sources: Sequence[Source], block_bytes: int, directory: Path) -> None:
        """Plan it.

        Args:
            sources: What to scan.
            block_bytes: Bytes that a part of a file has at least.
            directory: Where the blocks go.
        """
        self.sources, self.block_bytes = sources, block_bytes
        self.groups = [group for number, source in enumerate(sources) for group in _groups(number, source)]
        self.sizes = tuple(group.bytes for group in self.groups)
        inputs = tuple(fingerprint(self._made_from(group)) for group in self.groups)
        self.store = BlockStore(directory=directory, inputs=inputs, stage=STAGE)

    def make(self, number: int, advance: Advance) -> Block:
        """Scan one group of files: a row for each part of each file.

        Raises:
            DataError: A file cannot be read.
        """
        group = self.groups[number]
        source = self.sources[group.source]
        found = [(file, *_scan_sources(source.files[file], source, self.block_bytes, advance)) for file in group.files]
        rows = [(file, part.start, part.end, part.first_line) for file, _, parts in found for part in parts]
        digests = [digest for _, digest, parts in found for _ in parts]
        sizes = [part.bytes for _, _, parts in found for part in parts]
        return Block(
            {
                "span": np.array(rows, dtype=np.int64),
                "bytes": np.array(sizes, dtype=np.int64),
                "sha256": np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, 32),
            }
        )

    def collect(self, remembered: Checksums, block_of: Callable[[int], Block] | None = None) -> list[Scan]:
        """Gather what the blocks hold.

        Args:
            remembered: Checksums by stamp; those found here are added.
            block_of: Gives a block; the store's finished ones, unless given.

        Returns:
            What was found in each source.

        Raises:
            ArtifactError: A block is missing or damaged.
        """
        spans: list[list[Span]] = [[] for _ in self.sources]
        sizes: list[list[int]] = [[] for _ in self.sources]
        identities: list[Identity] = [[] for _ in self.sources]
        for number, group in enumerate(self.groups):
            block = (block_of or self.store.take)(number)
            files = self.sources[group.source].files
            spans[group.source] += [Span(*row) for row in block.arrays["span"].tolist()]
            sizes[group.source] += block.arrays["bytes"].tolist()
            for file, digest in _digests(block):
                stamp, size = stamp_of(files[file].path)
                remembered[stamp] = digest
                identities[group.source].append({"name": files[file].name, "bytes": size, "sha256": digest})
        return [
            Scan(
                identity=identity,
                spans=tuple(_as_read(source, span) for span in parts),
                sizes=tuple(of_parts),
            )
            for source, identity, parts, of_parts in zip(self.sources, identities, spans, sizes, strict=True)
        ]

    def _made_from(self, group: FileGroup) -> Mapping[str, Any]:
        source = self.sources[group.source]
        stamps = [stamp_of(source.files[file].path)[0] for file in group.files]
        made_from = {"stamps": stamps, "kind": source.kind, "unit": source.unit, "block_bytes": self.block_bytes}
        # A table has not the same parts where other columns are read; `parts` tells blocks of another form apart.
        return made_from | {"text_key": source.config.text_key, "parts": "with bytes"}


def _groups(number: int, source: Source) -> Iterator[FileGroup]:
    first, size = 0, 0
    for file, entry in enumerate(source.files):
        size += stamp_of(entry.path)[1]
        if size >= _GROUP_BYTES or file + 1 - first == _GROUP_FILES or file + 1 == len(source.files):
            yield FileGroup(number, range(first, file + 1), size)
            first, size = file + 1, 0


class _Part(NamedTuple):
    """A part of a file."""

    start: int
    end: int
    first_line: int
    bytes: int


def _scan_sources(file: InputFile, source: Source, block_bytes: int, advance: Advance) -> tuple[bytes, list[_Part]]:
    """SHA-256 of a file, and its parts."""
    tables: list[_Part] | None = None
    if source.kind in TABLES:
        rows = table_parts(file.path, source.kind, source.config, block_bytes)
        tables = [_Part(part.start, part.stop, part.start + 1, part.bytes) for part in rows]
    with open_stored(file.path) as stream:
        size = stamp_of(file.path)[1]
        begins = [0]
        if not is_compressed(file.path) and source.kind not in ("megatron", *TABLES) and size > block_bytes:
            rule = rule_of(source, stream)
            begins = list(split_points(stream, size, block_bytes, rule)) if rule else [0]
        digest, line, parts = hashlib.sha256(), 1, []
        stream.seek(0)
        for at, end in pairwise([*begins, size]):
            parts.append(_Part(at, end, line, end - at))
            line += _read_part(stream, end - at, digest, advance)
            if stream.tell() != end:
                problem = f"ended at byte {stream.tell()}, but had {size}"
                raise DataError(file.path, problem, "Let it be, while it is read")
    return digest.digest(), parts if tables is None else tables


def _read_part(stream: BinaryIO, left: int, digest: Any, advance: Advance) -> int:
    """Line breaks in the next `left` bytes, which are added to the digest."""
    breaks = 0
    while left > 0:
        piece = stream.read(min(left, _READ_BYTES))
        if not piece:
            break
        digest.update(piece)
        breaks += piece.count(b"\n")
        left -= len(piece)
        advance(len(piece))
    return breaks


def _as_read(source: Source, span: Span) -> Span:
    """Offsets of a compressed file are those of its compressed bytes, which nobody can read from."""
    compressed = is_compressed(source.files[span.file].path) and source.kind not in TABLES
    return span._replace(end=None) if compressed else span


def _digests(block: Block) -> Iterator[tuple[int, str]]:
    """File and SHA-256 of each file of a group."""
    files: NDArray[np.int64] = block.arrays["span"][:, 0]
    first = np.flatnonzero(np.diff(files, prepend=-1))
    for row in first.tolist():
        yield int(files[row]), block.arrays["sha256"][row].tobytes().hex()
