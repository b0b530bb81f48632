"""Why a file gives no document, judged by how it begins: the likeliest mistakes by name, and what to do about each."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from retro.common.errors import DataError
from retro.common.json_files import JsonError, parse_json
from retro.corpus.config import TEXT_KEYS
from retro.corpus.files import BOM, Source, open_bytes
from retro.corpus.folder import InputFile
from retro.corpus.tables import TABLES, text_column

_HEAD_BYTES = 1 << 20
_LINES = 100
_UTF_16 = "UTF-16, two bytes a character; UTF-8 is needed"
_SIGNATURES = (
    (b"\xff\xfe\x00\x00", "UTF-32, four bytes a character; UTF-8 is needed"),
    (b"\xff\xfe", _UTF_16),
    (b"\xfe\xff", _UTF_16),
    (b"\x1f\x8b", "compressed with gzip"),
    (b"\x28\xb5\x2f\xfd", "compressed with Zstandard"),
    (b"BZh", "compressed with bzip2"),
    (b"\xfd7zXZ\x00", "compressed with xz"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"%PDF", "a PDF"),
    (b"\x89HDF", "an HDF5 file"),
)


class Diagnosis(NamedTuple):
    """What is wrong with a file, and what to do."""

    problem: str
    remedy: str


def diagnose(
    source: Source, file: InputFile, reasons: Mapping[str, int], section: str = "corpus.sources"
) -> Diagnosis | None:
    """Look at how a file begins of which nothing, or much, was rejected; None where nothing is known of it.

    Args:
        source: Whose file.
        file: The file of the first reject.
        reasons: How many were rejected, by reason.
        section: Where its settings are.
    """
    if source.kind in ("parquet", "arrow"):
        return None
    try:
        with open_bytes(file.path) as stream:
            head = stream.read(_HEAD_BYTES)
    except DataError:
        return None
    found = _of_bytes(head, file)
    if found is None and source.kind == "jsonl":
        found = _of_json(head, file) or _of_keys(head, source, reasons, section)
    if found is None and reasons.get("invalid UTF-8"):
        remedy = f"Convert it, if it is Western text: iconv -f WINDOWS-1252 -t UTF-8 {_quoted(file)}"
        return Diagnosis("it is not UTF-8", remedy)
    return found


def _of_bytes(head: bytes, file: InputFile) -> Diagnosis | None:
    """What the first bytes, whatever the layout, say."""
    wide = _UTF_16 if has_wide_characters(head) else ""
    name = next((name for signature, name in _SIGNATURES if head.startswith(signature)), wide)
    if not name:
        return None
    if "UTF-8" in name:
        return Diagnosis(f"it is {name}", f"Convert it: iconv -f {name[:6]} -t UTF-8 {_quoted(file)}")
    return Diagnosis(f"it is {name}, by its first bytes", "Give the text in it, or the ending that says what it is")


def has_wide_characters(content: bytes) -> bool:
    """Whether text has so many zero bytes that its characters must have two or four bytes each."""
    return len(content) > 1 and content.count(0) * 4 > len(content)


def _of_json(head: bytes, file: InputFile) -> Diagnosis | None:
    """Valid JSON, or nearly, in another layout than an object a line."""
    text = head.removeprefix(BOM).lstrip()
    given, to = _quoted(file), f"{shlex.quote(file.path.stem)}.lines.jsonl"
    if text.startswith(b"["):
        return Diagnosis("it is one JSON array", f"Write one object a line: jq -c '.[]' {given} > {to}")
    if b"\n" not in head and head.count(b"\r") > 1:
        problem = "its lines end in CR alone, as on old Macintoshes, so that it is one line"
        return Diagnosis(problem, f"Write line breaks: tr '\\r' '\\n' < {given} > {to}")
    first = text.split(b"\n", 1)[0].strip()
    if text.startswith(b"{") and not _is_json(first) and (len(first) < 2 or not first.endswith(b"}")):
        problem = "its objects are spread over several lines"
        return Diagnosis(problem, f"Write one object a line: jq -c . {given} > {to}")
    if text and not text.startswith(b"{"):
        return Diagnosis("its lines are not JSON objects", "Set the source's kind: text, or folder, for plain text")
    return None


def _of_keys(head: bytes, source: Source, reasons: Mapping[str, int], section: str) -> Diagnosis | None:
    """Where the text seems to be, when it is not under `text_key`."""
    missing, wrong = reasons.get("missing text", 0), reasons.get("text is not a string", 0)
    if not missing and not wrong:
        return None
    key = source.config.text_key
    objects = list(_objects(head))
    likely = likely_text_key(objects, key)
    where = f"for the source {source.name!r} in {section}"
    kind = next((type(one[key]).__name__ for one in objects if key in one and not isinstance(one[key], str)), "")
    problem = f"{missing} documents have no {key!r}" if missing else f"in {wrong} documents {key!r} is a {kind}"
    keys = Counter(name for one in objects for name in one)
    problem += f"; the keys are {', '.join(name for name, _ in keys.most_common(10))}" if keys else ""
    if likely:
        return Diagnosis(problem, f"Set text_key: {likely} {where}")
    deeper = next(filter(None, map(_nested_text, objects)), "")
    if deeper:
        remedy = f"The text seems to be in {deeper}, where text_key does not reach: write it to a key of its own"
        return Diagnosis(problem, remedy)
    if kind == "list":
        return Diagnosis(problem, f"Join what is in {key!r} to one string, or make a document of each")
    return Diagnosis(problem, f"Set text_key to the key of a document's text {where}")


def text_key_of(source: Source) -> str:
    """The key, or the column, under which the texts of a source seem to be; the source's own where they are there.

    Raises:
        DataError: A table has no column of texts under any of the usual names.
    """
    key = source.config.text_key
    if source.kind == "jsonl":
        with open_bytes(source.files[0].path) as stream:
            objects = list(_objects(stream.read(_HEAD_BYTES)))
        if any(isinstance(one.get(key), str) for one in objects):
            return key
        return likely_text_key(objects, "") or key
    if source.kind in TABLES:
        return text_column(source.files[0].path, source.kind, source.config)
    return key


def likely_text_key(objects: list[dict[str, Any]], but: str) -> str:
    """The key under which the texts of some documents seem to be; empty where none is likely.

    Args:
        objects: Some documents.
        but: The key that it is not.
    """
    characters: Counter[str] = Counter()
    for one in objects:
        characters.update({name: len(text) for name, text in one.items() if isinstance(text, str) and " " in text})
    del characters[but]
    known = [name for usual in TEXT_KEYS for name in characters if name.lower() == usual]
    return (known or [name for name, _ in characters.most_common(1)] or [""])[0]


def _nested_text(one: dict[str, Any]) -> str:
    """Where a text is in an object within an object; empty where none is."""
    for name, inner in one.items():
        if isinstance(inner, dict) and (key := likely_text_key([inner], "")):
            return f"{name}.{key}"
    return ""


def _objects(head: bytes) -> Iterator[dict[str, Any]]:
    for line in head.removeprefix(BOM).split(b"\n")[:_LINES]:
        try:
            found = parse_json(line)
        except JsonError:
            continue
        if isinstance(found, dict):
            yield found


def _quoted(file: InputFile) -> str:
    """A file's path, as a shell takes it."""
    return shlex.quote(str(file.path))


def _is_json(line: bytes) -> bool:
    try:
        parse_json(line)
    except JsonError:
        return False
    return True
