"""Items of files that may be larger than memory: JSON lines are read a line at a time, a JSON list whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from retro.common.block_stage import Advance
from retro.common.errors import DataError
from retro.common.input_files import kind_of
from retro.common.json_files import JsonError, OnBad, json_data_error, json_item, json_items, parse_json
from retro.corpus.files import BOM, JSON_ENDINGS, ending_of, open_bytes

Item = dict[str, Any]


def input_files(path: Path) -> list[Path]:
    """The files of a source: itself, or those in a folder that end as JSON does, by name.

    Raises:
        DataError: There is none.
    """
    if kind_of(path) != "a folder":
        return [path]
    found = sorted(one for one in path.iterdir() if ending_of(one.name) in JSON_ENDINGS and kind_of(one) == "a file")
    if not found:
        problem = f"holds no file that ends in one of {', '.join(JSON_ENDINGS)} (also .gz, .zst)"
        raise DataError(path, problem, "Give the folder of the files, or one of them")
    return found


def items_of(path: Path, on_bad: OnBad, advance: Advance) -> Iterator[tuple[str, Item]]:
    """The objects of a file with their places, as `line 7`.

    Args:
        path: JSON lines, or a JSON list; also compressed.
        on_bad: Gets the reason in a word, and the error, for what is no object; raises it, or returns to go on.
        advance: Called with the bytes that were read.

    Raises:
        DataError: The file is missing or cannot be read.
    """
    with open_bytes(path, advance) as stream:
        number, line = 1, stream.readline().removeprefix(BOM)
        while line and not line.strip():
            number, line = number + 1, stream.readline()
        if line.lstrip().startswith(b"["):
            whole = _decoded(path, line + stream.read(), "")
            yield from ((one.place, one.value) for one in json_items(path, whole, on_bad=on_bad))
            return
        while line:
            if line.strip():
                try:
                    yield f"line {number}", _item(path, number, line)
                except _BadLineError as error:
                    on_bad(error.reason, error.cause)
            line, number = stream.readline(), number + 1


class _BadLineError(Exception):
    def __init__(self, reason: str, cause: DataError) -> None:
        super().__init__(reason)
        self.reason, self.cause = reason, cause


def _item(path: Path, number: int, line: bytes) -> Item:
    place = f"line {number}"
    try:
        value = parse_json(_decoded(path, line, place))
    except JsonError as error:
        cause = json_data_error(path, error, place, f"column {error.column}")
        raise _BadLineError("broken_json", cause) from None
    except DataError as cause:
        raise _BadLineError("not_utf8", cause) from None
    try:
        return json_item(path, number, place, value).value
    except DataError as cause:
        raise _BadLineError("not_an_object", cause) from None


def _decoded(path: Path, content: bytes, place: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        where = f"byte 0x{content[error.start]:02x} at offset {error.start}"
        raise DataError(path, f"{place} is not UTF-8 ({where})".lstrip(), "Give a file in UTF-8") from None
