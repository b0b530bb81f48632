"""From files, or parts of files, to documents: one reader per layout.

What is not a document comes out as a reject, with its reason.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

from retro.common.errors import DataError
from retro.common.json_files import JsonError, parse_json
from retro.corpus.config import SourceConfig
from retro.corpus.files import BOM, Advance, Source, is_heading, open_bytes
from retro.corpus.folder import InputFile
from retro.corpus.html import PageError, page_of
from retro.corpus.tables import TABLES, table_rows

_EXCERPT_CHARACTERS = 200
_SLICE_CHARACTERS = 1_000_000


@dataclass(frozen=True, slots=True)
class Document:
    """A text with a name."""

    id: str
    title: str
    text: str
    file: str
    line: int
    words: int


@dataclass(frozen=True, slots=True)
class Reject:
    """Something in a source that is not a document."""

    file: str
    line: int
    """Line number in the file, counted from 1."""
    reason: str
    """One of a few fixed wordings, so that they can be counted."""
    detail: str
    excerpt: str
    """How it starts."""


class _BadLineError(Exception):
    """A line that is not a document; becomes a Reject."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


Item = Document | Reject
Lines = Iterable[tuple[int, bytes]]


class Span(NamedTuple):
    """A run of whole lines of one file, in which whole documents stand."""

    file: int
    """Place of the file in its source."""
    start: int
    """Its first byte; of a table, its first row."""
    end: int | None
    """The byte, or row, after its last; None for the file's end."""
    first_line: int
    """Number of its first line, or row, in the file, counted from 1."""


def words_in(text: str) -> int:
    """Words of a text, as `str.split` finds them; of a long text without a list of them, which takes more than it."""
    words = 0
    for begin in range(0, len(text), _SLICE_CHARACTERS):
        words += len(text[begin : begin + _SLICE_CHARACTERS].split())
        # One that reaches over the border was counted on both sides.
        words -= begin > 0 and not text[begin - 1].isspace() and not text[begin].isspace()
    return words


def read_source(source: Source, min_words: int, advance: Advance) -> Iterator[Item]:
    """Read all documents of a text source, in the order of its files and lines; see `read_spans`."""
    return read_spans(source, (Span(file, 0, None, 1) for file in range(len(source.files))), min_words, advance)


def read_spans(source: Source, spans: Iterable[Span], min_words: int, advance: Advance) -> Iterator[Item]:
    """Read the documents in some parts of a text source, one file open at a time.

    Args:
        source: Files and layout; not `megatron`, which has no text.
        spans: What to read, in this order.
        min_words: Documents with fewer words are rejected.
        advance: Called with how many bytes of input were read.

    Raises:
        DataError: A file cannot be read at all.
    """
    for span in spans:
        file = source.files[span.file]
        if source.kind in TABLES:
            for item in _rows(source, file, span, advance):
                yield _long_enough(item, min_words)
            continue
        with open_bytes(file.path, advance) as stream:
            for item in _items(source, file, stream, span):
                yield _long_enough(item, min_words)


def _rows(source: Source, file: InputFile, span: Span, advance: Advance) -> Iterator[Item]:
    """A document for each row of a table; rows are counted from 1, as lines are."""
    rows = table_rows(file.path, source.kind, source.config, span.start, span.end)
    for number, row in enumerate(rows, start=span.start + 1):
        text = row[source.config.text_key]
        advance(len(text) if text is not None else 0)
        try:
            yield _document_of(row, number, file, source.config)
        except _BadLineError as error:
            yield _reject(file, number, error, str(row).encode())


def _items(source: Source, file: InputFile, stream: BinaryIO, span: Span) -> Iterator[Item]:
    if source.kind == "html":
        return iter([_page(stream.read(), file)])
    if source.kind in ("text", "folder") and source.unit == "file":
        return iter([_whole_file(stream.read().removeprefix(BOM), file)])
    columns = _columns(stream, file, source.config) if source.kind == "tsv" else []
    lines = enumerate(_lines(stream, span), start=span.first_line)
    if source.kind == "tsv":
        return _table_lines(lines, columns, file, source.config)
    if source.kind == "jsonl":
        return _json_lines(lines, file, source.config)
    if source.kind == "wikitext":
        return _groups(_articles(lines), file, heading=True)
    return _groups(_plain(lines, source.unit), file)


def _lines(stream: BinaryIO, span: Span) -> Iterator[bytes]:
    lines = iter(stream)
    if span.end is not None:
        stream.seek(span.start)
        lines = _until(lines, span.end - span.start)
    if span.start == 0:
        for line in itertools.islice(lines, 1):
            yield line.removeprefix(BOM)
    yield from lines


def _until(lines: Iterator[bytes], left: int) -> Iterator[bytes]:
    while left > 0:
        line = next(lines, b"")
        if not line:
            return
        left -= len(line)
        yield line


def _long_enough(item: Item, min_words: int) -> Item:
    if isinstance(item, Reject) or item.words >= min_words:
        return item
    reason = "too short" if item.words else "empty text"
    detail = f"{item.words} words, {min_words} needed" if item.words else ""
    return Reject(item.file, item.line, reason, detail, item.text[:_EXCERPT_CHARACTERS])


def _reject(file: InputFile, line: int, error: _BadLineError, content: bytes) -> Reject:
    excerpt = content[: 4 * _EXCERPT_CHARACTERS].decode("utf-8", "replace").strip()[:_EXCERPT_CHARACTERS]
    # A key that is named may have half a character, which no file can hold.
    detail = error.detail.encode("utf-8", "backslashreplace").decode()
    return Reject(file.name, line, error.reason, detail, excerpt)


def _decode(content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        detail = f"byte 0x{content[error.start]:02x} at offset {error.start}"
        raise _BadLineError("invalid UTF-8", detail) from None


def _json_lines(lines: Lines, file: InputFile, config: SourceConfig) -> Iterator[Item]:
    """One JSON object per line; lines of white space only are neither documents nor rejects."""
    for number, line in lines:
        if not line.strip():
            continue
        try:
            yield _json_document(line, number, file, config)
        except _BadLineError as error:
            yield _reject(file, number, error, line)


def _columns(stream: BinaryIO, file: InputFile, config: SourceConfig) -> list[str]:
    """The columns that the first line of a table names; the stream is at the beginning again.

    Raises:
        DataError: The column of the text is not among them.
    """
    first = next(iter(stream), b"").removeprefix(BOM)
    stream.seek(0)
    try:
        columns = _cells(first)
    except _BadLineError as error:
        raise DataError(file.path, f"its first line is {error.reason}", "Give a table in UTF-8") from None
    if config.text_key not in columns:
        problem = f"its first line names no column {config.text_key!r}; it has: {', '.join(columns)[:200]}"
        raise DataError(file.path, problem, "Set the source's text_key, or put the names of the columns first")
    return columns


def _cells(line: bytes) -> list[str]:
    """The cells of a line of a tab-separated table, quoted as Python's csv module quotes them."""
    text = _decode(line).rstrip("\r\n")
    try:
        return next(csv.reader([text], delimiter="\t", strict=True), [])
    except csv.Error as error:
        raise _BadLineError("not a line of a table", str(error)) from None


def _table_lines(lines: Lines, columns: list[str], file: InputFile, config: SourceConfig) -> Iterator[Item]:
    """One document per line of a table such as DPR's `psgs_w100.tsv`; the line of names is none."""
    for number, line in lines:
        if number == 1 or not line.strip():
            continue
        try:
            cells = _cells(line)
            if len(cells) != len(columns):
                raise _BadLineError("other number of columns", f"{len(cells)}, the first line has {len(columns)}")
            yield _document_of(dict(zip(columns, cells, strict=True)), number, file, config)
        except _BadLineError as error:
            yield _reject(file, number, error, line)


def _json_document(line: bytes, number: int, file: InputFile, config: SourceConfig) -> Document:
    text_line = _decode(line).rstrip("\r\n")
    try:
        data = parse_json(text_line)
    except JsonError as error:
        detail = error.problem.removeprefix("broken JSON: ")
        raise _BadLineError("invalid JSON", f"column {error.column}: {detail}") from None
    if not isinstance(data, dict):
        raise _BadLineError("not a JSON object", f"found {type(data).__name__}")
    document = _document_of(data, number, file, config)
    if "\\ud" in text_line.lower():
        _require_whole_characters(document.id, document.title, document.text)
    return document


def _document_of(data: dict[str, Any], number: int, file: InputFile, config: SourceConfig) -> Document:
    """The document of an object or a row."""
    if config.text_key not in data:
        keys = ", ".join(sorted(data)[:10])
        raise _BadLineError("missing text", f"no key {config.text_key!r}; the line has: {keys}")
    text = data[config.text_key]
    if isinstance(text, bytes):
        _decode(text)
    if not isinstance(text, str):
        raise _BadLineError("text is not a string", f"{config.text_key!r} is {type(text).__name__}")
    identifier = _name(data, config.id_key) or f"{file.name}:{number}"
    title = _name(data, config.title_key)
    return Document(identifier, title, text, file.name, number, words_in(text))


def _name(data: dict[str, Any], key: str) -> str:
    value = data.get(key)
    # Tables that pandas wrote as JSON have NaN where nothing is.
    if value is None or value != value:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _BadLineError("id or title is not a string", f"{key!r} is {type(value).__name__}")
    return str(value)


def _require_whole_characters(*texts: str) -> None:
    """JSON can spell half of a surrogate pair, which no UTF-8 file and no tokenizer can hold."""
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise _BadLineError("lone surrogate", f"\\u{ord(text[error.start]):04x}") from None


def _whole_file(content: bytes, file: InputFile) -> Item:
    """The file as one document; an empty one too, which is reported and not skipped."""
    blank = content[: len(content) - len(content.lstrip())]
    number = 1 + blank.count(b"\n") if len(blank) < len(content) else 1
    try:
        text = _text(content)
    except _BadLineError as error:
        return _reject(file, number, error, content)
    return Document(file.name, file.name, text, file.name, number, words_in(text))


def _page(content: bytes, file: InputFile) -> Item:
    """The text of an HTML page, under its own title."""
    try:
        page = page_of(content)
    except PageError as error:
        return _reject(file, 1, _BadLineError(*error.args), content)
    title = page.title or file.name
    return Document(file.name, title, page.text, file.name, 1, words_in(page.text))


def _text(content: bytes) -> str:
    # Letters of two bytes, without a byte order mark, are valid UTF-8 with a zero byte beside each.
    if content.count(0) * 4 > len(content):
        raise _BadLineError("zero bytes", f"{content.count(0)} of {len(content)}")
    if b"\n" not in content and content.rstrip().count(b"\r") > 1:
        # One line, if nothing were said: nothing would part its documents.
        raise _BadLineError("lines end in CR alone", f"{content.count(13)} of them; `tr '\\r' '\\n'` mends it")
    return _decode(content).replace("\r\n", "\n").lstrip("\n").rstrip()


def _plain(lines: Lines, unit: str) -> Iterator[list[tuple[int, bytes]]]:
    """Groups of lines that make one document each."""
    group: list[tuple[int, bytes]] = []
    for number, line in lines:
        blank = not line.strip()
        if group and (blank or unit == "line"):
            yield group
            group = []
        if not blank:
            group.append((number, line))
    if group:
        yield group


def _articles(lines: Lines) -> Iterator[list[tuple[int, bytes]]]:
    """Groups of lines from one level-1 heading to the next; what is before the first is a group of its own.

    A heading of the file's first kind is looked for: when a blank line follows the first one, a blank line must
    follow each, because tables hold lines such as `= 1 =` too.
    """
    group: list[tuple[int, bytes]] = []
    spaced: bool | None = None
    pairs = itertools.pairwise(itertools.chain(lines, [(0, b"")]))
    for (number, line), (_, following) in pairs:
        blank_after = not following.strip()
        if is_heading(line):
            spaced = blank_after if spaced is None else spaced
            if group and (blank_after or not spaced):
                yield group
                group = []
        group.append((number, line))
    if group:
        yield group


def _groups(groups: Iterator[list[tuple[int, bytes]]], file: InputFile, *, heading: bool = False) -> Iterator[Item]:
    """A document for each group of lines that holds more than white space."""
    for group in groups:
        content = b"".join(line for _, line in group)
        if not content.strip():
            continue
        number, first = next((n, line) for n, line in group if line.strip())
        try:
            text = _text(content)
        except _BadLineError as error:
            yield _reject(file, number, error, content)
            continue
        title = first.decode().strip()[2:-2].strip() if heading and is_heading(first) else ""
        yield Document(f"{file.name}:{number}", title, text, file.name, number, words_in(text))
