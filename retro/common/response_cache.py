"""Responses of a model, kept in a file of JSON lines: work that was stopped continues, and nothing is asked for twice.

    {"model": "…", "checksum": …}                   the header: whose responses these are
    {"key": "…", "response": …, "checksum": …}      one line a response, forced to the disk before it counts

Lines are only ever appended, each under a lock on the file, so several processes may share one. A kill costs at most
the line that was being written. In memory are the keys and where their lines are, not the responses.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from typing_extensions import TypedDict

from retro.common import checksummed_json
from retro.common.errors import ArtifactError
from retro.common.files import failed_writes_are_artifact_errors, fsync, require_place
from retro.common.input_files import reason
from retro.common.json_files import JsonError, wrong_type

log = logging.getLogger(__name__)

Observer = Callable[[str, Any], None]
"""Called with key and response of a line, whoever wrote it."""


class OtherHeaderError(ArtifactError):
    """The file holds the responses of something else, or is another kind of file."""


class _Line(TypedDict):
    key: str
    response: Any


class ResponseCache:
    """Responses by key. One thread of a process uses it; other processes may append to the same file."""

    def __init__(self, path: Path, header: Mapping[str, Any], remedy: str, observe: Observer | None = None) -> None:
        """Open the file, or begin it.

        Args:
            path: The file.
            header: Whose responses they are; another header is refused.
            remedy: What to do about a file that cannot be used.
            observe: Called once for each response of the file, now and as they are added.

        Raises:
            OtherHeaderError: The file has another header.
            ArtifactError: It cannot be written, or a whole line of it is damaged.
        """
        self.path, self._header, self._remedy, self._observe = path, dict(header), remedy, observe
        self._places: dict[str, tuple[int, int]] = {}
        self._end = self._lines = 0
        self.refresh()
        log.info("%s: %d responses are known", path, len(self))

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __getitem__(self, key: str) -> Any:
        start, length = self._places[key]
        with self.path.open("rb") as stream:
            stream.seek(start)
            return self._parsed(stream.read(length), f"the line at byte {start}")["response"]

    def refresh(self) -> None:
        """Take in what other processes have appended.

        Raises:
            ArtifactError: As when it is opened.
        """
        with self._locked():
            pass

    def add(self, keys: Sequence[str], responses: Sequence[Any]) -> None:
        """Keep responses, on the disk when this returns. Of a key that is there already the first one stays.

        Raises:
            ArtifactError: The disk is full, or another process left a damaged line.
        """
        with self._locked() as stream:
            new = {key: one for key, one in zip(keys, responses, strict=True) if key not in self._places}
            stream.write(b"".join(_line({"key": key, "response": one}) for key, one in new.items()))
            stream.flush()
            os.fsync(stream.fileno())
            self._read_new(stream)

    @contextmanager
    def _locked(self) -> Iterator[BinaryIO]:
        require_place(self.path)
        try:
            with failed_writes_are_artifact_errors(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("a+b") as stream:
                    fcntl.flock(stream, fcntl.LOCK_EX)
                    self._read_new(stream)
                    yield stream
        except OSError as error:
            raise ArtifactError(self.path, f"cannot be written ({reason(error)})", self._remedy) from None

    def _read_new(self, stream: BinaryIO) -> None:
        """Index what was appended since. Whoever writes holds the lock: a line without an end was cut short."""
        stream.seek(self._end)
        for line in stream:
            if not line.endswith(b"\n"):
                self._drop(stream, line)
                break
            self._take(line)
        if not self._end:
            header = _line(self._header)
            stream.write(header)
            stream.flush()
            fsync(self.path.parent)
            self._take(header)

    def _drop(self, stream: BinaryIO, line: bytes) -> None:
        if not self._end and not _line(self._header).startswith(line):
            raise OtherHeaderError(self.path, "is not a file of responses", self._remedy)
        stream.truncate(self._end)
        log.warning("%s: dropped 1 line (%d bytes) that was cut short when it was written", self.path, len(line))

    def _take(self, line: bytes) -> None:
        start, first = self._end, not self._lines
        self._lines += 1
        value = self._parsed(line, f"line {self._lines}")
        if first:
            if value != self._header:
                raise OtherHeaderError(self.path, f"begins with {str(value)[:80]}, not {self._header}", self._remedy)
        elif problem := wrong_type(value, _Line):
            raise ArtifactError(self.path, f"line {self._lines} {problem}", self._remedy)
        elif value["key"] not in self._places:
            self._places[value["key"]] = start, len(line)
            if self._observe is not None:
                self._observe(value["key"], value["response"])
        self._end += len(line)

    def _parsed(self, line: bytes, where: str) -> Any:
        try:
            value, problem = checksummed_json.parse_line(line.decode())
        except (JsonError, UnicodeDecodeError) as error:
            value, problem = None, f"is {error}"
        if problem:
            raise ArtifactError(self.path, f"{where} {problem}", self._remedy)
        return value


def _line(data: Mapping[str, Any]) -> bytes:
    return checksummed_json.line(data).encode()
