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
from typing import BinaryIO, cast

from retro.common.errors import ConfigError, DataError
from retro.corpus.config import SourceConfig
from retro.corpus.folder import HIDDEN, Folder, InputFile, is_folder, list_folder, printable
from retro.corpus.token_files import bin_path, idx_path

log = logging.getLogger(__name__)

JSON_ENDINGS = (".jsonl", ".ndjson", ".json")
TEXT_ENDINGS = (".txt", ".md", ".markdown", ".rst", ".tokens")
BOM = b"\xef\xbb\xbf"
"""May stand at the start of a UTF-8 file; no part of its text."""
_BUFFER_BYTES = 1 << 20
_SNIFFED_LINES = 100

Advance = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A source whose files have been found and whose layout is known."""

    config: SourceConfig
    kind: str
    """jsonl, text, folder, wikitext or megatron."""
    files: tuple[InputFile, ...]

    @property
    def name(self) -> str:
        """The source's name."""
        return self.config.name

    @property
    def unit(self) -> str:
        """What one document is in plain text: a `file`, what stands between `blank_line`s, or a `line`."""
        if self.config.documents != "auto":
            return self.config.documents
        return "file" if self.kind == "folder" else "blank_line"


def resolve(config: SourceConfig, path: Path) -> Source:
    """Find the files of a source at `path`, in sorted order, and their layout; what is passed over is logged.

    Raises:
        DataError: There is no such file, it is a pipe or a device, nothing in the folder can be read, or the layout
            cannot be told.
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
    ending = _ending(path.name)
    if ending in JSON_ENDINGS:
        return "jsonl"
    if ending in TEXT_ENDINGS:
        return "wikitext" if _starts_with_heading(path) else "text"
    known = ", ".join((*JSON_ENDINGS, *TEXT_ENDINGS))
    raise DataError(
        path, f"its ending {ending!r} does not tell how it is laid out (known: {known})", "Set the source's kind"
    )


def _kind_of_folder(path: Path, folder: Folder) -> str:
    endings = {_ending(file.name) for file in folder.files}
    json_found, text_found = endings & set(JSON_ENDINGS), endings & set(TEXT_ENDINGS)
    if json_found and text_found:
        problem = f"holds JSON lines ({', '.join(sorted(json_found))}) and text ({', '.join(sorted(text_found))})"
        raise DataError(path, problem, "Set the source's kind to jsonl or folder, or make two sources of it")
    return "jsonl" if json_found else "folder"


def _files(path: Path, kind: str, folder: Folder | None) -> tuple[InputFile, ...]:
    if folder is None:
        return (InputFile(printable(path.name), path),)
    endings = JSON_ENDINGS if kind == "jsonl" else TEXT_ENDINGS
    found = tuple(file for file in folder.files if _ending(file.name) in endings)
    others = Counter(_ending(file.name) or "none" for file in folder.files if _ending(file.name) not in endings)
    told = _passed_over(others, folder.passed_over)
    if not found:
        problem = f"holds no file with one of the endings {', '.join(endings)} (also .gz)"
        problem += f"; it holds {told}" if told else ""
        raise DataError(path, problem, "Give another folder, or set the source's kind")
    if told:
        # Hidden files are expected to stay unread.
        level = logging.WARNING if others or set(folder.passed_over) - {HIDDEN} else logging.INFO
        log.log(level, "corpus: %s: not read: %s", path, told)
    return found


def _passed_over(endings: Counter[str], reasons: Counter[str]) -> str:
    """What is not read, by reason, in words; empty if nothing."""
    told = [f"{count} {reason}" for reason, count in sorted(reasons.items())]
    if endings:
        common = ", ".join(ending for ending, _ in sorted(endings.items(), key=lambda one: (-one[1], one[0]))[:5])
        told = [f"{endings.total()} files with other endings ({common})", *told]
    return ", ".join(told)


def _ending(name: str) -> str:
    return PurePosixPath(name.lower().removesuffix(".gz")).suffix


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


@contextmanager
def open_bytes(path: Path, advance: Advance = lambda count: None) -> Iterator[BinaryIO]:
    """Open a file for reading, through gzip when it ends in `.gz`.

    Raises:
        DataError: It cannot be read, or the compressed data is cut short or damaged.
    """
    try:
        with open_stored(path, advance) as raw:
            if path.suffix == ".gz":
                with gzip.GzipFile(fileobj=raw) as stream:
                    yield cast(BinaryIO, stream)
            else:
                yield raw
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        problem = f"is cut short or damaged ({error})"
        raise DataError(path, problem, "Fetch it again; `gzip -t` checks it") from None


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
