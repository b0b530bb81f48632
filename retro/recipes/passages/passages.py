"""A file of passages, read on demand: in memory is where each one begins, and that is mapped from disk.

    starts.npy    [N + 1] byte in the text at which the line of each passage begins; the last is its end
    keys.npy      [N] 64-bit hashes of the ids, ascending
    rows.npy      [N] the passage of each of these hashes
    text          the text itself, where the file is compressed: a place in it can be gone to

That is 20 bytes a passage: 420 MB for the 21 million of psgs_w100.tsv, whose text has 13 GB.
"""

# Dims in this file. N passages   I ids asked for

from __future__ import annotations

import hashlib
import itertools
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from retro.common.artifacts import Manifest
from retro.common.checksum_cache import known_sha256
from retro.common.errors import DataError
from retro.common.input_files import require_regular
from retro.common.progress import Progress
from retro.corpus.files import BOM, is_compressed, open_bytes
from retro.recipes.passages.layouts import (
    TSV,
    BadLineError,
    JsonLines,
    Layout,
    Passage,
    Table,
    kind_of_file,
    layout_of,
)
from retro.recipes.passages.store import kept

WHAT = "the table of passages"
FOLDER = "passages"
"""Below the store."""
_TEXT = "text"
_KEY_BYTES = 8

Int64 = NDArray[np.int64]


class Passages:
    """The passages of a file. Rows count from 0, in the order of the file; ids are texts.

    Attributes:
        file: As it was given.
        fingerprint: Of every id, title and text, and their order.
        without_title: How many have none.
    """

    def __init__(self, file: Path, directory: Path, manifest: Manifest) -> None:
        """Map the table in `directory`; use `open`."""
        self.file, self.fingerprint = file, manifest.fingerprint
        self.without_title = int(manifest.counts["without_title"])
        text = directory / _TEXT if is_compressed(file) else file
        starts = np.load(directory / "starts.npy", mmap_mode="r")
        self._text = _Text(file, text, starts, layout_of(manifest.counts["layout"]))
        self._keys: NDArray[np.uint64] = np.load(directory / "keys.npy", mmap_mode="r")
        self._rows: NDArray[Any] = np.load(directory / "rows.npy", mmap_mode="r")

    @classmethod
    def open(cls, file: Path, store: Path) -> Passages:
        """The passages of a file; the table of where they are is made first, where `store` has none of this file.

        Args:
            file: .tsv or .jsonl, also .gz.
            store: Folder of what is derived.

        Raises:
            DataError: A line is no passage, two passages have one id, or the file has none or cannot be read.
            ArtifactError: The table is damaged, or the disk is full.
        """
        require_regular(file, "Check the path", error=DataError, missing="no such file of passages")
        kind = kind_of_file(file)
        store.mkdir(parents=True, exist_ok=True)
        made_of = {"sha256": known_sha256(file, store), "layout": kind, "compressed": is_compressed(file)}
        manifest = kept(store / FOLDER, WHAT, made_of, lambda fresh: _build(file, kind, fresh))
        return cls(file, store / FOLDER, manifest)

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, identifier: str) -> Passage:
        """The passage of an id.

        Raises:
            KeyError: There is none.
        """
        row = int(self.rows_of([identifier])[0])
        found = self._text.read([row])[0] if row >= 0 else None
        if found is None or found.id != identifier:
            raise KeyError(identifier)
        return found

    def at(self, rows: Sequence[int]) -> list[Passage]:
        """The passages of some rows, in the order given.

        Raises:
            DataError: The file has been changed meanwhile.
        """
        return self._text.read(rows)

    def rows_of(self, ids: Sequence[str]) -> Int64:
        """int64 [I] the row of each id; -1 where no passage has it.

        By hashes alone, unless two passages share one: that an unknown id has the hash of one of 21 million has a
        chance of 1 in 10^12.
        """
        keys_I = np.fromiter(map(_key, ids), dtype=np.uint64, count=len(ids))
        place_I = np.minimum(np.searchsorted(self._keys, keys_I), len(self._keys) - 1)
        found_I = self._keys[place_I] == keys_I
        rows_I: Int64 = np.where(found_I, self._rows[place_I].astype(np.int64), -1)
        next_I = np.minimum(place_I + 1, len(self._keys) - 1)
        for number in np.flatnonzero(found_I & (next_I > place_I) & (self._keys[next_I] == keys_I)).tolist():
            rows_I[number] = self._exact_row(ids[number], int(place_I[number]))
        return rows_I

    def _exact_row(self, identifier: str, place: int) -> int:
        key = self._keys[place]
        same = itertools.takewhile(lambda one: self._keys[one] == key, range(place, len(self._keys)))
        rows = [int(self._rows[one]) for one in same]
        return next((row for row in rows if self._text.read([row])[0].id == identifier), -1)


class _Text:
    """The text of a file, and where its passages are."""

    def __init__(self, file: Path, text: Path, starts_N1: Int64, layout: Layout) -> None:
        self.file, self._path, self._starts_N1, self._layout = file, text, starts_N1, layout

    def read(self, rows: Sequence[int]) -> list[Passage]:
        """The passages of some rows; rows that follow each other are read at once."""
        found: list[Passage] = []
        try:
            with self._path.open("rb") as stream:
                for first, last in _runs(rows):
                    found += self._read_run(stream, first, last)
        except (BadLineError, OSError) as error:
            raise DataError(self.file, f"has been changed since it was opened ({error})", "Run again") from None
        return found

    def _read_run(self, stream: BinaryIO, first: int, last: int) -> Iterator[Passage]:
        starts = self._starts_N1[first : last + 2].tolist()
        stream.seek(starts[0])
        data = stream.read(starts[-1] - starts[0])
        for start, end in itertools.pairwise(starts):
            # Blank lines may follow.
            yield self._layout.parse(data[start - starts[0] : end - starts[0]].partition(b"\n")[0])

    def line_number(self, row: int) -> int:
        """The line of a passage, counted from 1; reads what is before it."""
        left, lines = int(self._starts_N1[row]), 1
        with self._path.open("rb") as stream:
            while left and (some := stream.read(min(left, 1 << 20))):
                lines += some.count(b"\n")
                left -= len(some)
        return lines


def _runs(rows: Iterable[int]) -> Iterator[tuple[int, int]]:
    """First and last of each run of rows that follow each other."""
    first = last = -2
    for row in rows:
        if row != last + 1:
            if last >= 0:
                yield first, last
            first = row
        last = row
    if last >= 0:
        yield first, last


def _key(identifier: str) -> int:
    digest = hashlib.blake2b(identifier.encode("utf-8", "surrogatepass"), digest_size=_KEY_BYTES).digest()
    return int.from_bytes(digest, "little")


class _Scan:
    """What one pass over a file finds."""

    def __init__(self, layout: Layout | None) -> None:
        self.layout = layout
        # Not lists: 16 bytes a passage while the file is read, and not a hundred.
        self.starts, self.keys = array("q"), array("Q")
        self.without_title = 0
        self.end = 0

    def take(self, line: bytes, start: int) -> None:
        """Read a line that begins at byte `start`; the first line of a table names its columns.

        Raises:
            BadLineError: It is no passage.
        """
        if self.layout is None:
            self.layout = Table.of_heading(line)
        elif line.strip():
            passage = self.layout.parse(line)
            self.starts.append(start)
            self.keys.append(_key(passage.id))
            self.without_title += not passage.title


def _build(file: Path, kind: str, fresh: Path) -> dict[str, Any]:
    """Write the table of a file into `fresh`; gives its counts."""
    text = fresh / _TEXT if is_compressed(file) else file
    scan = _scanned(file, kind, fresh)
    if scan.layout is None or not scan.starts:
        raise DataError(file, "holds no passage", "Give a file with a line for each passage")
    starts_N1 = np.append(np.frombuffer(scan.starts, dtype=np.int64), scan.end)
    keys_N = np.frombuffer(scan.keys, dtype=np.uint64)
    order_N = np.argsort(keys_N, kind="stable")
    sorted_N = keys_N[order_N]
    _require_distinct(_Text(file, text, starts_N1, scan.layout), sorted_N, order_N)
    np.save(fresh / "starts.npy", starts_N1)
    np.save(fresh / "keys.npy", sorted_N)
    np.save(fresh / "rows.npy", order_N.astype(np.uint32 if len(order_N) <= 1 << 32 else np.int64))
    counts = {"passages": len(order_N), "without_title": scan.without_title}
    return counts | {"layout": scan.layout.described}


def _scanned(file: Path, kind: str, fresh: Path) -> _Scan:
    scan = _Scan(None if kind == TSV else JsonLines())
    progress = Progress(file.stat().st_size, what=f"passages: reading {file.name}", unit="bytes")
    copied = (fresh / _TEXT).open("wb") if is_compressed(file) else nullcontext()
    with progress as bar, copied as copy, open_bytes(file, bar.advance) as stream:
        for number, line in enumerate(stream, start=1):
            if copy is not None:
                copy.write(line)
            mark = len(BOM) if number == 1 and line.startswith(BOM) else 0
            try:
                scan.take(line[mark:], scan.end + mark)
            except BadLineError as error:
                raise DataError(file, f"line {number} {error.problem}", error.remedy) from None
            scan.end += len(line)
    return scan


def _require_distinct(text: _Text, sorted_N: NDArray[np.uint64], order_N: Int64) -> None:
    """Raise DataError for the first passage whose id another has before it; equal hashes alone are no harm."""
    same = np.flatnonzero(sorted_N[1:] == sorted_N[:-1])
    seen: dict[str, int] = {}
    for row in np.unique(np.concatenate([order_N[same], order_N[same + 1]])).tolist():
        (passage,) = text.read([row])
        if passage.id in seen:
            earlier, later = (text.line_number(one) for one in (seen[passage.id], row))
            problem = f"line {later} has the id {passage.id[:80]!r} of line {earlier}"
            raise DataError(text.file, problem, "Give every passage an id of its own")
        seen[passage.id] = row
