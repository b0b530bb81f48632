"""Rows of Parquet and Arrow files: how many there are, where a file may be cut, and the rows of a part, streamed.

Of a row only the columns are read that a document is made of, or all where no source says which. Where a file is cut
decides nothing but the blocks.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from retro.common import input_files
from retro.common.errors import DataError, short_reason
from retro.common.json_files import JsonError, parse_json
from retro.common.optional import import_optional
from retro.corpus.config import TEXT_KEYS, SourceConfig

TABLES = ("parquet", "arrow")
"""Kinds of sources whose files hold rows."""
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"
_BATCH_BYTES = 1 << 22
_BATCH_ROWS = 1_000
_REMEDY = "Fetch or write it again"


class Rows(NamedTuple):
    """Some rows of a file."""

    start: int
    stop: int
    bytes: int
    """Of all columns, uncompressed; about."""


def table_parts(path: Path, kind: str, config: SourceConfig, block_bytes: int) -> list[Rows]:
    """Parts of a file, in order, of `block_bytes` each, or of one row; together they are all of it.

    Raises:
        DataError: The file is damaged, or has not the columns that the source needs.
        DependencyError: pyarrow is missing.
    """
    pieces = _parquet_groups(path, config) if kind == "parquet" else _arrow_batches(path, config)
    cut = [part for piece in pieces for part in _cut(piece, block_bytes)]
    parts: list[Rows] = []
    for part in cut:
        if parts and parts[-1].bytes < block_bytes:
            parts[-1] = Rows(parts[-1].start, part.stop, parts[-1].bytes + part.bytes)
        else:
            parts.append(part)
    return parts or [Rows(0, 0, 0)]


def table_rows(
    path: Path, kind: str, config: SourceConfig | None, start: int, stop: int | None
) -> Iterator[dict[str, Any]]:
    """The rows from number `start` to `stop` of a file, as dicts of the columns that are read; all without a config.

    A text that is not UTF-8 comes as bytes.

    Raises:
        DataError: The file is damaged, or has not the columns that the source needs.
    """
    at = start
    with _damage_named(path):
        batches = _parquet_read(path, config, start, stop) if kind == "parquet" else _arrow_read(path, config, start)
        for batch in batches:
            wanted = batch if stop is None else batch.slice(0, max(stop - at, 0))
            yield from _dicts(wanted)
            at += batch.num_rows
            if stop is not None and at >= stop:
                return


def text_column(path: Path, kind: str, config: SourceConfig) -> str:
    """The source's own column where it holds texts, else the first of the usual names whose column does.

    Raises:
        DataError: No column does.
    """
    for name in dict.fromkeys((config.text_key, *TEXT_KEYS)):
        try:
            next(table_rows(path, kind, config.model_copy(update={"text_key": name}), 0, 1), None)
        except DataError:
            continue
        return name
    next(table_rows(path, kind, config, 0, 1), None)
    return config.text_key


def require_whole_dataset(state: Path) -> None:
    """Look at a `state.json` of HuggingFace's `save_to_disk`: what it names must be there, and be all.

    Raises:
        DataError: A file is missing, the rows are a selection of those stored, or the state cannot be read.
    """
    try:
        described = parse_json(input_files.read_bytes(state, _REMEDY, error=DataError))
        names = [str(one["filename"]) for one in described["_data_files"]]
        selected = described.get("_indices_files") or described.get("_indices_data_files")
    except (JsonError, KeyError, TypeError, AttributeError) as error:
        raise DataError(state, f"does not describe a dataset ({error!r})", "Save the dataset again") from None
    missing = [name for name in names if not state.with_name(name).is_file()]
    if missing:
        raise DataError(state, f"names {missing[0]}, which is missing", "Copy the whole folder again")
    if selected:
        remedy = "Call flatten_indices() on the dataset and save it again"
        raise DataError(state, "selects some of the stored rows, by an index that is not read here", remedy)


def _cut(piece: Rows, block_bytes: int) -> Iterator[Rows]:
    """A piece that is larger than a block, in equal parts."""
    rows = piece.stop - piece.start
    count = max(1, min(rows, piece.bytes // block_bytes))
    bounds = [piece.start + rows * number // count for number in range(count + 1)]
    for start, stop in pairwise(bounds):
        yield Rows(start, stop, piece.bytes * (stop - start) // max(rows, 1))


def _dicts(batch: Any) -> Iterator[dict[str, Any]]:
    names = batch.schema.names
    columns = [_values(column) for column in batch.columns]
    for values in zip(*columns, strict=True):
        yield dict(zip(names, values, strict=True))


def _values(column: Any) -> list[Any]:
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        pyarrow = _pyarrow()
        plain = column.dictionary_decode() if pyarrow.types.is_dictionary(column.type) else column
        return [_text_or_bytes(value) for value in plain]


def _text_or_bytes(value: Any) -> Any:
    try:
        return value.as_py()
    except UnicodeDecodeError:
        return value.as_buffer().to_pybytes()


def _parquet_groups(path: Path, config: SourceConfig) -> Iterator[Rows]:
    with _parquet(path) as file:
        _columns(path, file.schema_arrow, config)
        at = 0
        for number in range(file.metadata.num_row_groups):
            group = file.metadata.row_group(number)
            # Not the sizes of the columns that are read: of a damaged one, asking for it ends the process.
            yield Rows(at, at + group.num_rows, group.total_byte_size)
            at += group.num_rows


def _parquet_read(path: Path, config: SourceConfig | None, start: int, stop: int | None) -> Iterator[Any]:
    with _parquet(path) as file:
        names = _columns(path, file.schema_arrow, config)
        groups, at, skip, size, rows = [], 0, None, 0, 0
        for number in range(file.metadata.num_row_groups):
            group = file.metadata.row_group(number)
            if at + group.num_rows > start and (stop is None or at < stop):
                skip = start - at if skip is None else skip
                groups.append(number)
                size, rows = size + group.total_byte_size, rows + group.num_rows
            at += group.num_rows
        several = max(1, min(_BATCH_ROWS, _BATCH_BYTES * max(rows, 1) // max(size, 1)))
        if not groups:
            return
        batches = file.iter_batches(several, row_groups=groups, columns=names, use_threads=False)
        yield from _after(batches, skip or 0)


@contextmanager
def _parquet(path: Path) -> Iterator[Any]:
    _pyarrow()
    parquet = importlib.import_module("pyarrow.parquet")
    with _damage_named(path), parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
        yield file


def _arrow_batches(path: Path, config: SourceConfig) -> Iterator[Rows]:
    at = 0
    for batch in _arrow(path, config):
        yield Rows(at, at + batch.num_rows, batch.nbytes)
        at += batch.num_rows


def _arrow_read(path: Path, config: SourceConfig | None, start: int) -> Iterator[Any]:
    for batch in _after(_arrow(path, config), start):
        # Offsets in a damaged file may lead anywhere in memory.
        batch.validate(full=True)
        for first in range(0, batch.num_rows, _BATCH_ROWS):
            yield batch.slice(first, _BATCH_ROWS)


def _arrow(path: Path, config: SourceConfig | None) -> Iterator[Any]:
    """The record batches of an Arrow file or stream, mapped: what is not looked at is not read."""
    pyarrow = _pyarrow()
    ipc = importlib.import_module("pyarrow.ipc")
    with _damage_named(path), pyarrow.memory_map(str(path)) as mapped:
        if mapped.size() == 0:
            raise DataError(path, "is empty", _REMEDY)
        whole = mapped.read(6) == b"ARROW1"
        if not whole:
            # Arrow itself takes a stream that was cut between two batches for a shorter one.
            mapped.seek(max(mapped.size() - len(_END_OF_STREAM), 0))
            if mapped.read(len(_END_OF_STREAM)) != _END_OF_STREAM:
                raise DataError(path, "is cut short or damaged (it has not the mark of its end)", _REMEDY)
        mapped.seek(0)
        reader = ipc.open_file(mapped) if whole else ipc.open_stream(mapped)
        names = _columns(path, reader.schema, config)
        batches = map(reader.get_batch, range(reader.num_record_batches)) if whole else reader
        for batch in batches:
            yield batch.select(names)


def _after(batches: Iterator[Any], rows: int) -> Iterator[Any]:
    """The batches behind some rows."""
    for batch in batches:
        skipped = min(rows, batch.num_rows)
        rows -= skipped
        if skipped < batch.num_rows:
            yield batch.slice(skipped)


def _columns(path: Path, schema: Any, config: SourceConfig | None) -> list[str]:
    """The columns to read: the text's, and those of id and title where they are; all where there is no config.

    Raises:
        DataError: There is no column of texts under the source's `text_key`, or there are two.
    """
    types = _pyarrow().types
    names: list[str] = schema.names
    if config is None:
        return names
    key = config.text_key
    where = f"for the source {config.name!r} in corpus.sources"
    texts = [name for name, kind in zip(names, schema.types, strict=True) if _is_text(types, kind)]
    if names.count(key) > 1:
        raise DataError(path, f"has {names.count(key)} columns {key!r}", "Give each column a name of its own")
    if key not in texts:
        reported = ", ".join(f"{name} ({kind})" for name, kind in list(zip(names, schema.types, strict=True))[:20])
        found = f"the column {key!r} holds no texts" if key in names else f"has no column {key!r}"
        likely = [name for usual in TEXT_KEYS for name in texts if name.lower() == usual] or texts
        remedy = f"Set text_key: {likely[0]} {where}" if likely else "Give a table with a column of texts"
        raise DataError(path, f"{found}; the columns are {reported}", remedy)
    others = dict.fromkeys((config.id_key, config.title_key))
    return [key, *(name for name in others if names.count(name) == 1 and name != key)]


def _is_text(types: Any, kind: Any) -> bool:
    kind = kind.value_type if types.is_dictionary(kind) else kind
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    pyarrow = _pyarrow()
    try:
        yield
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(path, f"is cut short or damaged ({short_reason(error)})", _REMEDY) from None


def _pyarrow() -> Any:
    return import_optional("pyarrow", extra="formats", use="reads Parquet and Arrow files")
