"""What is known of each document beside its tokens: id and title, one JSON line per document, in order."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retro.common.errors import ArtifactError
from retro.common.json_files import JsonError, parse_json

_SCAN_BYTES = 1 << 26
_REMEDY = "Run `retro corpus` again"


def document_line(identifier: str, title: str) -> str:
    """The line of one document; JSON escapes line breaks, so it is one line."""
    return json.dumps({"id": identifier, "title": title}, ensure_ascii=False) + "\n"


class DocumentNames:
    """Random access to the lines of a `<source>.documents.jsonl`.

    Only line starts are kept in memory, 8 bytes a document, and only once somebody asks.
    """

    def __init__(self, path: Path, documents: int) -> None:
        self.path = path
        self.documents = documents

    @cached_property
    def _line_starts(self) -> NDArray[np.int64]:
        """[documents + 1] byte offsets."""
        if self.path.stat().st_size == 0:
            ends = np.zeros(0, dtype=np.int64)
        else:
            data = np.memmap(self.path, dtype=np.uint8, mode="r")
            pieces = range(0, len(data), _SCAN_BYTES)
            ends = np.concatenate([np.flatnonzero(data[at : at + _SCAN_BYTES] == 10) + at for at in pieces])
        if len(ends) != self.documents:
            problem = f"has {len(ends)} lines; the token file has {self.documents} documents"
            raise ArtifactError(self.path, problem, _REMEDY)
        return np.concatenate([np.zeros(1, dtype=np.int64), ends + 1])

    def line(self, document: int) -> dict[str, str]:
        """`{"id", "title"}` of document number `document`.

        Raises:
            ValueError: There is no such document.
            ArtifactError: The file has another number of lines, or the line is not JSON.
        """
        if not 0 <= document < self.documents:
            raise ValueError(f"document {document} of {self.documents} in {self.path.name}")
        start, end = (int(at) for at in self._line_starts[document : document + 2])
        with self.path.open("rb") as stream:
            stream.seek(start)
            line = stream.read(end - start)
        return self._parsed(document + 1, line)

    def lines(self) -> Iterator[dict[str, str]]:
        """`{"id", "title"}` of all documents, in order, without keeping any.

        Raises:
            ArtifactError: A line is not JSON, or there are not as many as documents.
        """
        number = 0
        with self.path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                yield self._parsed(number, line)
        if number != self.documents:
            problem = f"has {number} lines; the token file has {self.documents} documents"
            raise ArtifactError(self.path, problem, _REMEDY)

    def _parsed(self, number: int, line: bytes) -> dict[str, str]:
        try:
            names = parse_json(line)
        except JsonError as error:
            raise ArtifactError(self.path, f"line {number} is not JSON ({error})", _REMEDY) from None
        if not isinstance(names, dict) or not all(isinstance(names.get(key), str) for key in ("id", "title")):
            raise ArtifactError(self.path, f"line {number} is not an id and a title", _REMEDY)
        return names
