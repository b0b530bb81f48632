"""Finding the files of a source, saying how they are laid out, and opening them."""

from __future__ import annotations

import gzip
import io
import logging
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from retro.common.errors import ConfigError, DataError
from retro.common.optional import import_optional
from retro.corpus.config import SourceConfig, SourceKind
from retro.corpus.folder import HIDDEN, Folder, InputFile, is_folder, list_folder, printable
from retro.corpus.tables import require_whole_dataset
from retro.corpus.token_files import bin_path, idx_path

_READ_BYTES = 1 << 17
_WINDOW_BYTES = 1 << 27
"""Of a frame, at most: what `zstd --ultra -22` makes. A forged header may ask for any number."""


class DamagedZstdError(Exception):
    """The compressed data is cut short or damaged."""


class ZstdStream(io.RawIOBase):
    """The text of a Zstandard file, of one frame or many."""

    def __init__(self, raw: BinaryIO) -> None:
        self._zstandard = import_optional("zstandard", extra="formats", use="reads .zst files")
        self._raw, self._given, self._made = raw, b"", b""
        self._frame: Any = None

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Fill a buffer, as far as one read of the file goes.

        Raises:
            DamagedZstdError: The data is cut short or damaged.
        """
        while not self._made:
            if not self._given:
                self._given = self._raw.read(_READ_BYTES)
                if not self._given:
                    if self._frame is not None:
                        raise DamagedZstdError("it ends within a frame")
                    return 0
            self._decompress()
        count = min(len(buffer), len(self._made))
        buffer[:count], self._made = self._made[:count], self._made[count:]
        return count

    def _decompress(self) -> None:
        if self._frame is None:
            self._frame = self._zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES).decompressobj()
        try:
            self._made = self._frame.decompress(self._given)
        except self._zstandard.ZstdError as error:
            raise DamagedZstdError(str(error)) from None
        self._given = self._frame.unused_data if self._frame.eof else b""
        if self._frame.eof:
            self._frame = None


log = logging.getLogger(__name__)

JSON_ENDINGS = (".jsonl", ".ndjson", ".json")
TEXT_ENDINGS = (".txt", ".md", ".markdown", ".rst", ".tokens")
HTML_ENDINGS = (".html", ".htm", ".xhtml")
ENDINGS: dict[str, tuple[str, ...]] = {
    "jsonl": JSON_ENDINGS,
    "folder": TEXT_ENDINGS,
    "html": HTML_ENDINGS,
    "tsv": (".tsv",),
    "parquet": (".parquet",),
    "arrow": (".arrow",),
}
"""Of the files of a folder, by how it is read."""
COMPRESSED = (".gz", ".zst")
BOM = b"\xef\xbb\xbf"
"""May stand at the start of a UTF-8 file; no part of its text."""
DATASET_FILES = ("state.json", "dataset_dict.json", "dataset_info.json")
"""What `save_to_disk` of HuggingFace's datasets puts beside its Arrow files."""
_CONTENTS = {
    "jsonl": "JSON lines",
    "folder": "text",
    "html": "HTML",
    "tsv": "tab-separated tables",
    "parquet": "Parquet files",
    "arrow": "Arrow files",
}
_BUFFER_BYTES = 1 << 20
_SNIFFED_LINES = 100

Advance = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A source whose files have been found and whose layout is known."""

    config: SourceConfig
    kind: str
    """jsonl, text, folder, wikitext, html, tsv, parquet, arrow or megatron."""
    files: tuple[InputFile, ...]

    @property
    def name(self) -> str:
        """The source's name."""
        return self.config.name

    @property
    def unit(self) -> str:
        """What one document is in plain text: a `file`, what is between `blank_line`s, or a `line`."""
        if self.config.documents != "auto":
            return self.config.documents
        return "file" if self.kind in ("folder", "html") else "blank_line"


def resolve(config: SourceConfig, path: Path) -> Source:
    """Find the files of a source at `path`, in sorted order, and their layout; what is passed over is logged.

    Raises:
        DataError: There is no such file, it is a pipe or a device, nothing in the folder can be read, or the layout
            is not known.
    """
    found = _look(path)
    kind = _kind(path, found) if config.kind in ("auto", "pystdlib") else config.kind
    if config.documents != "auto" and kind not in ("text", "folder"):
        raise ConfigError(
            f"corpus.sources.{config.name}.documents", config.documents, f"needs to be auto for a {kind} source"
        )
    if kind == "megatron":
        prefix = megatron_prefix(path)
        files = tuple(InputFile(part.name, part) for part in (bin_path(prefix), idx_path(prefix)))
    else:
        files = _files(path, kind, found)
    if config.kind == "auto":
        log.info("corpus: %s is read as %s (%d files)", config.name, kind, len(files))
    return Source(config=config, kind=kind, files=files)


def sources_of(path: Path) -> list[SourceConfig]:
    """The sources of somebody's documents: a folder's texts and pages, whatever is beside them; other kinds if there
    are none.

    Args:
        path: A folder, or one file.

    Raises:
        DataError: There is no such path, or a folder that cannot be listed.
    """
    found, place = _look(path), path.resolve()
    endings = {ending_of(file.name) for file in found.files} if found is not None else set[str]()
    kinds: list[SourceKind] = [kind for kind in ("folder", "html") if endings & set(ENDINGS[kind])]
    if not kinds:
        return [SourceConfig(name="documents", path=place)]
    return [SourceConfig(name=kind, kind=kind, path=place) for kind in kinds]


def _look(path: Path) -> Folder | None:
    """What is in a folder; None for a file."""
    there = is_folder(path)
    if there is None and not _is_megatron(path):
        raise DataError(path, "no such file or folder", "Check the source's path")
    return list_folder(path) if there else None


def _is_megatron(path: Path) -> bool:
    prefix = megatron_prefix(path)
    return bin_path(prefix).is_file() and idx_path(prefix).is_file()


def megatron_prefix(path: Path) -> Path:
    """The prefix of a .bin/.idx pair, from the prefix or either file."""
    return path.with_suffix("") if path.suffix in (".bin", ".idx") else path


def _kind(path: Path, folder: Folder | None) -> str:
    if folder is not None:
        return _kind_of_folder(path, folder)
    if _is_megatron(path):
        return "megatron"
    ending = ending_of(path.name)
    if ending in TEXT_ENDINGS:
        return "wikitext" if _starts_with_heading(path) else "text"
    kind = next((kind for kind, endings in ENDINGS.items() if ending in endings), None)
    if kind is not None:
        return kind
    known = ", ".join(ending for endings in ENDINGS.values() for ending in endings)
    raise DataError(
        path, f"its ending {ending!r} does not tell how it is laid out (known: {known})", "Set the source's kind"
    )


def _kind_of_folder(path: Path, folder: Folder) -> str:
    if any(file.name.rpartition("/")[2] in DATASET_FILES for file in folder.files):
        return "arrow"
    there = {ending_of(file.name) for file in folder.files}
    found = {kind: sorted(there & set(endings)) for kind, endings in ENDINGS.items() if there & set(endings)}
    if len(found) > 1:
        # Pages beside texts are passed over, and counted, as they were before pages could be read.
        found.pop("html", None)
    if len(found) > 1:
        reported = " and ".join(f"{_CONTENTS[kind]} ({', '.join(endings)})" for kind, endings in found.items())
        remedy = f"Set the source's kind to {' or '.join(found)}, or make two sources of it"
        raise DataError(path, f"holds {reported}", remedy)
    return next(iter(found), "folder")


def _files(path: Path, kind: str, folder: Folder | None) -> tuple[InputFile, ...]:
    if folder is None:
        return (InputFile(printable(path.name), path),)
    endings = ENDINGS.get(kind, TEXT_ENDINGS)
    if kind == "arrow":
        for state in (file.path for file in folder.files if file.path.name == "state.json"):
            require_whole_dataset(state)
    found = tuple(file for file in folder.files if ending_of(file.name) in endings)
    rest = (file.name for file in folder.files if ending_of(file.name) not in endings)
    described = DATASET_FILES if kind == "arrow" else ()
    others = Counter(ending_of(name) or "none" for name in rest if name.rpartition("/")[2] not in described)
    reported = _passed_over(others, folder.passed_over)
    if not found:
        problem = f"holds no file with one of the endings {', '.join(endings)} (also .gz, .zst)"
        problem += f"; it holds {reported}" if reported else ""
        raise DataError(path, problem, "Give another folder, or set the source's kind")
    if reported:
        # Hidden files are expected to stay unread.
        level = logging.WARNING if others or set(folder.passed_over) - {HIDDEN} else logging.INFO
        log.log(level, "corpus: %s: not read: %s", path, reported)
    return found


def _passed_over(endings: Counter[str], reasons: Counter[str]) -> str:
    """What is not read, by reason, in words; empty if nothing."""
    reported = [f"{count} {reason}" for reason, count in sorted(reasons.items())]
    if endings:
        common = ", ".join(ending for ending, _ in sorted(endings.items(), key=lambda one: (-one[1], one[0]))[:5])
        reported = [f"{endings.total()} files with other endings ({common})", *reported]
    return ", ".join(reported)


def ending_of(name: str) -> str:
    """The ending of a file's name, in small letters, without that of a compression."""
    return PurePosixPath(name.lower().removesuffix(".gz").removesuffix(".zst")).suffix


def is_compressed(path: Path) -> bool:
    """Whether the bytes of a file are not those of its text."""
    return path.suffix in COMPRESSED


def is_heading(line: bytes) -> bool:
    """Whether a line is a level-1 heading, `= Title =`; `= = Part = =` and `== Part ==` are not."""
    text = line.strip()
    inner = text[2:-2]
    marked = text.startswith(b"= ") and text.endswith(b" =") and len(text) > 4
    return marked and not inner.startswith(b"=") and not inner.endswith(b"=")


def _starts_with_heading(path: Path) -> bool:
    with open_bytes(path) as stream:
        for _ in range(_SNIFFED_LINES):
            line = stream.readline(_BUFFER_BYTES)
            if line.strip():
                return is_heading(line)
    return False


class _CountedFile(io.FileIO):
    """A file that reports how many bytes were read from it, before decompression."""

    def __init__(self, path: Path, advance: Advance) -> None:
        super().__init__(path)
        self._advance = advance

    def readinto(self, buffer: object, /) -> int:
        count = super().readinto(buffer)  # type: ignore[arg-type]  # the Buffer type has no name in 3.11's typing
        self._advance(count)
        return count

    def readall(self) -> bytes:
        content = super().readall()
        self._advance(len(content))
        return content


@contextmanager
def open_bytes(path: Path, advance: Advance = lambda count: None) -> Iterator[BinaryIO]:
    """Open a file for reading, through gzip when it ends in `.gz`, through Zstandard when it ends in `.zst`.

    Raises:
        DataError: It cannot be read, or the compressed data is cut short or damaged.
        DependencyError: It ends in `.zst`, and zstandard is missing.
    """
    try:
        with open_stored(path, advance) as raw:
            if path.suffix == ".gz":
                with gzip.GzipFile(fileobj=raw) as stream:
                    yield cast(BinaryIO, stream)
            elif path.suffix == ".zst":
                with io.BufferedReader(ZstdStream(raw), _BUFFER_BYTES) as text:
                    yield text
            else:
                yield raw
    except (EOFError, zlib.error, gzip.BadGzipFile, DamagedZstdError) as error:
        problem = f"is cut short or damaged ({error})"
        tool = "zstd" if path.suffix == ".zst" else "gzip"
        raise DataError(path, problem, f"Fetch it again; `{tool} -t` checks it") from None


@contextmanager
def open_stored(path: Path, advance: Advance = lambda count: None) -> Iterator[BinaryIO]:
    """Open a file for reading its bytes as they are stored, compressed or not.

    Raises:
        DataError: It cannot be read.
    """
    try:
        with io.BufferedReader(_CountedFile(path, advance), _BUFFER_BYTES) as raw:
            yield raw
    except gzip.BadGzipFile:
        raise
    except OSError as error:
        raise DataError(
            path, f"cannot be read ({error.strerror or error})", "Check the file and its permissions"
        ) from None
