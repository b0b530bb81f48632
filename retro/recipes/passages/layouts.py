"""From a line of a file of passages to a passage: DPR's table, and JSON lines."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from retro.common.errors import DataError
from retro.common.json_files import JsonError, half_character, parse_json
from retro.corpus.files import ENDINGS, ending_of

TSV, JSONL = "tsv", "jsonl"
NEEDED = ("id", "text")
"""Columns, or fields, without which nothing is a passage; `title` may be missing."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of text that is embedded and found as a whole."""

    id: str
    title: str
    """Empty where it has none. A section of JSON lines is in it: `Title: Section`."""
    text: str


class BadLineError(Exception):
    """A line is no passage."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.problem, self.remedy = problem, remedy


class Layout(Protocol):
    """How the lines of a file are read."""

    @property
    def described(self) -> dict[str, Any]:
        """What `layout_of` takes to make it again."""

    def parse(self, line: bytes) -> Passage:
        """The passage of a line.

        Raises:
            BadLineError: It is none.
        """


@dataclass(frozen=True)
class Table:
    """Lines of cells with tabs between them, quoted as the csv module of Python writes them."""

    columns: tuple[str, ...]
    """As the first line names them."""

    @classmethod
    def of_heading(cls, line: bytes) -> Table:
        """The table whose first line this is.

        Raises:
            BadLineError: It does not name the columns that are needed, or one twice.
        """
        columns = _cells(line)
        shown = ", ".join(columns)[:200]
        remedy = "Put the names of the columns first: id, text, title"
        if missing := [name for name in NEEDED if name not in columns]:
            raise BadLineError(f"names no column {missing[0]!r}; it has: {shown}", remedy)
        if len(set(columns)) < len(columns):
            raise BadLineError(f"names a column twice: {shown}", remedy)
        return cls(tuple(columns))

    @property
    def described(self) -> dict[str, Any]:
        """See `Layout`."""
        return {"layout": TSV, "columns": list(self.columns)}

    def parse(self, line: bytes) -> Passage:
        """See `Layout`."""
        cells = _cells(line)
        if len(cells) != len(self.columns):
            needed = f"{len(self.columns)} ({', '.join(self.columns)})"
            remedy = "Write a line for each passage, with a tab between columns and nowhere else"
            raise BadLineError(f"has {len(cells)} columns, needed are {needed}", remedy)
        row = dict(zip(self.columns, cells, strict=True))
        return _passage(row["id"], row.get("title", ""), row["text"])


@dataclass(frozen=True)
class JsonLines:
    """Lines with one JSON object each."""

    @property
    def described(self) -> dict[str, Any]:
        """See `Layout`."""
        return {"layout": JSONL}

    def parse(self, line: bytes) -> Passage:
        """See `Layout`."""
        text = _decoded(line)
        try:
            value = parse_json(text)
        except JsonError as error:
            raise BadLineError(f"is {error.problem} at column {error.column}", _FIX) from None
        if not isinstance(value, dict):
            raise BadLineError(f"is a {type(value).__name__}, needed is an object with id, title and text", _FIX)
        if half_character(text, value) is not None:
            raise BadLineError("holds half a character, which no UTF-8 file can", _FIX)
        for name in NEEDED:
            if name not in value:
                raise BadLineError(f"has no {name!r}; it has: {', '.join(map(str, value))[:200]}", _FIX)
        found = value["id"]
        # Whole numbers are ids in several public files; True is none.
        identifier = str(found) if isinstance(found, int) and not isinstance(found, bool) else found
        title, section = (_optional_text(value, name) for name in ("title", "section"))
        return _passage(identifier, f"{title}: {section}" if title and section else title or section, value["text"])


_FIX = "Give one object for each passage, with id, text, and title where there is one"


def layout_of(described: dict[str, Any]) -> Layout:
    """The layout that was described."""
    return Table(tuple(described["columns"])) if described["layout"] == TSV else JsonLines()


def kind_of_file(path: Path) -> str:
    """How a file is laid out, by its name.

    Raises:
        DataError: The name does not tell.
    """
    ending = ending_of(path.name)
    kind = next((kind for kind in (TSV, JSONL) if ending in ENDINGS[kind]), "")
    if not kind:
        known = ", ".join((*ENDINGS[TSV], *ENDINGS[JSONL]))
        remedy = f"Give a file that ends in one of {known} (also .gz)"
        raise DataError(path, f"its ending {ending!r} does not tell how it is laid out", remedy)
    return kind


def _passage(identifier: object, title: str, text: object) -> Passage:
    if not isinstance(identifier, str) or not identifier.strip():
        raise BadLineError(f"has {str(identifier)[:80]!r} as its id, needed is a text", "Give every passage an id")
    if not isinstance(text, str) or not text.strip():
        problem = f"(passage {identifier[:80]!r}) has no text" if isinstance(text, str) else "has no text as its text"
        raise BadLineError(problem, "Leave out passages without text")
    return Passage(identifier, title, text)


def _optional_text(value: dict[str, Any], name: str) -> str:
    found = value.get(name)
    if found is not None and not isinstance(found, str):
        raise BadLineError(f"has {str(found)[:80]!r} as its {name}, needed is a text", _FIX)
    return found or ""


def _decoded(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        problem = f"is not UTF-8 (byte 0x{line[error.start]:02x} at offset {error.start})"
        raise BadLineError(problem, "Give a file in UTF-8") from None


def _cells(line: bytes) -> list[str]:
    text = _decoded(line).rstrip("\r\n")
    # Most lines have no quotes, and are read in a fifth of the time without csv.
    if '"' not in text:
        return text.split("\t")
    try:
        return next(csv.reader([text], delimiter="\t", strict=True), [])
    except csv.Error as error:
        remedy = 'Quote cells that begin with a quote, as "say ""so""", and put no line ends into them; or give .jsonl'
        raise BadLineError(f"is not a line of a table ({error})", remedy) from None
