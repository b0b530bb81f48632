"""HDF5 as our stages use it: the same bytes on every machine, and datasets that readers memory-map.

A contiguous, uncompressed dataset is one run of bytes in its file, so a reader asks HDF5 once for the offset and
then indexes a memory map: about 80 times the rows per second of h5py's own row selection, and safe after a fork.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from io import FileIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from retro.common.errors import ArtifactError
from retro.common.input_files import ErrorClass, require_regular

# What h5py raises for a file that is cut short or damaged depends on where the damage is.
UNREADABLE = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, OverflowError, MemoryError)

_NUMBERS = (h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.ENUM)  # h5py keeps booleans as an enumeration
_FILTERS = (h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_LZF)
_MOST_OBJECTS = 1 << 16
_LONGEST = 1 << 16
"""Bytes of an attribute."""


@contextmanager
def new_file(path: Path) -> Iterator[h5py.File]:
    """Open `path` for writing, in a file format that does not follow the installed HDF5 release.

    Datasets begin at multiples of 8 bytes: of a mapped column that does not, numpy gathers at half the speed, and
    `np.take` copies it whole. Use it inside `files.atomic_path`, which also turns a full disk into an
    ArtifactError.
    """
    settings: dict[str, Any] = {"libver": ("earliest", "v110"), "alignment_threshold": 8, "alignment_interval": 8}
    with (
        path.open("w+b", buffering=0) as stream,
        _written(stream) as guarded,
        h5py.File(guarded, "w", **settings) as file,
    ):
        yield file


@contextmanager
def changed_file(path: Path) -> Iterator[h5py.File]:
    """Open a file that is there, to write over its datasets."""
    with path.open("r+b", buffering=0) as stream, _written(stream) as guarded, h5py.File(guarded, "r+") as file:
        yield file


@contextmanager
def _written(stream: FileIO) -> Iterator[_Guarded]:
    guarded = _Guarded(stream)
    yield guarded
    if guarded.error is not None:
        raise guarded.error


class _Guarded:
    """A file that HDF5 writes through, and that keeps from it that a write failed.

    HDF5 holds what it could not write and tries again: when a dataset is closed, when Python lets go of it, when the
    process ends. h5py then prints above whatever the user sees, and crashes the process in the end. Here the first
    error is kept until the file is closed, and whatever comes after it is dropped.
    """

    def __init__(self, stream: FileIO) -> None:
        self.stream = stream
        self.error: OSError | None = None

    def write(self, data: memoryview) -> int:
        """Write all of `data`, or keep the reason why not."""
        self._try(lambda: self._write_all(data))
        return len(data)

    def truncate(self, size: int) -> int:
        """Make the file so many bytes long."""
        self._try(lambda: self.stream.truncate(size))
        return size

    def flush(self) -> None:
        """Nothing is held back here."""

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place in the file."""
        return self.stream.seek(offset, whence)

    def tell(self) -> int:
        """Where in the file the next bytes go."""
        return self.stream.tell()

    def read(self, size: int = -1) -> bytes:
        """The next bytes; h5py looks whether there is such a method."""
        return self.stream.read(size)

    def readinto(self, buffer: memoryview) -> int | None:
        """Fill `buffer`."""
        return self.stream.readinto(buffer)

    def _write_all(self, data: memoryview) -> None:
        left = memoryview(data).cast("B")
        while left:
            left = left[self.stream.write(left) :]

    def _try(self, call: Callable[[], object]) -> None:
        if self.error is None:
            try:
                call()
            except OSError as error:
                self.error = error


@contextmanager
def open_file(path: Path, remedy: str, *, error: ErrorClass = ArtifactError) -> Iterator[h5py.File]:
    """Open `path` for reading, if all that it holds is its own: see `_problem_of`.

    Raises:
        ArtifactError, DataError: The file is missing, is not a regular file, HDF5 cannot read it, or it is a link.
    """
    require_regular(path, remedy, error=error)
    try:
        status = path.stat()
        problem = _problem_of(path, status.st_size, status.st_mtime_ns, status.st_ino)
        if problem:
            raise error(path, problem, remedy)
        with h5py.File(path, "r") as file:
            yield file
    except UNREADABLE as cause:
        reason = " ".join(str(cause).split())
        raise error(path, f"cannot be read as HDF5 ({reason})", remedy) from None


@lru_cache(maxsize=4096)
def _problem_of(path: Path, size: int, changed_ns: int, inode: int) -> str:
    """What a file holds beside plain numbers of its own in groups; empty if nothing. A file is walked through once.

    HDF5 follows links, to this file or to others; takes values from other files (external storage, virtual datasets);
    and keeps references and types of other objects. A stage writes none of it, so it is a forgery or another's file.
    """
    with h5py.File(path, "r") as file:
        groups, seen = [(file, "")], {h5py.h5o.get_info(file.id).addr}
        while groups:
            group, above = groups.pop()
            problem = _attributes(group, above or "the file")
            for name in group if not problem else ():
                where = f"{above}/{name}".lstrip("/")
                if group.id.links.get_info(name.encode("utf-8", "surrogateescape")).type != h5py.h5l.TYPE_HARD:
                    return f"has a link in place of {where!r}"
                found = group[name]
                address = h5py.h5o.get_info(found.id).addr
                if address in seen or len(seen) > _MOST_OBJECTS:
                    return f"has {where!r} under several names" if address in seen else "has too many objects"
                seen.add(address)
                if isinstance(found, h5py.Group):
                    groups.append((found, where))
                    continue
                if not isinstance(found, h5py.Dataset):
                    return f"has a type in place of the dataset {where!r}"
                problem = problem or _dataset(found, where, size) or _attributes(found, where)
            if problem:
                return problem
    return ""


def _dataset(dataset: h5py.Dataset, where: str, size: int) -> str:
    created, kind = dataset.id.get_create_plist(), dataset.id.get_type()
    if created.get_layout() == h5py.h5d.VIRTUAL or created.get_external_count():
        return f"takes the values of {where!r} from other files"
    if kind.get_class() not in _NUMBERS or kind.committed():
        return f"has something else than numbers in {where!r}"
    if any(created.get_filter(number)[0] not in _FILTERS for number in range(created.get_nfilters())):
        return f"stores {where!r} through a filter that is not HDF5's own"
    # zlib makes at most 1,032 bytes of one.
    most = size if created.get_layout() == h5py.h5d.CONTIGUOUS else 1100 * dataset.id.get_storage_size() + (1 << 16)
    if math.prod(dataset.shape or ()) * kind.get_size() > most:
        return f"says that {where!r} has shape {dataset.shape}, more than its {size} bytes can hold"
    return ""


def _attributes(owner: h5py.Group | h5py.Dataset, where: str) -> str:
    for name in owner.attrs:
        found = owner.attrs.get_id(name)
        kind = found.get_type()
        text = kind.get_class() == h5py.h5t.STRING
        if not (text or kind.get_class() in _NUMBERS) or found.get_storage_size() > _LONGEST:
            return f"has something else than numbers and texts in attribute {name!r} of {where}"
        if text and kind.is_variable_str():
            return f"keeps attribute {name!r} of {where} apart, as a text of any length"
    return ""


def write_texts(owner: h5py.Group, texts: Mapping[str, str]) -> None:
    """Store short texts as attributes, each in the place of its own length.

    A text of any length, as h5py would write it, is in a heap: of one whose place there is damaged, HDF5 may never
    come back.
    """
    for name, text in texts.items():
        owner.attrs[name] = np.bytes_(text.encode())


def read_text(owner: h5py.Group, name: str) -> str:
    """A text that `write_texts` stored.

    Raises:
        KeyError, TypeError, UnicodeDecodeError: There is none; of a damaged file, inside `open_file`.
    """
    text = owner.attrs[name]
    if not isinstance(text, bytes):
        raise TypeError(f"attribute {name!r} is not text")
    return text.decode()


def create_column(
    group: h5py.Group, name: str, shape: tuple[int, ...], dtype: np.dtype[Any] | type[np.generic]
) -> h5py.Dataset:
    """An empty contiguous little-endian dataset; no creation time, which would differ from run to run."""
    little_endian = np.dtype(dtype).newbyteorder("<")
    return group.create_dataset(name, shape=shape, dtype=little_endian, track_times=False)


def write_columns(group: h5py.Group, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Store each array whole, as a contiguous dataset, in the order of their names."""
    for name in sorted(arrays):
        column = create_column(group, name, arrays[name].shape, arrays[name].dtype)
        if arrays[name].size:
            column[...] = arrays[name]


def map_column(
    path: Path,
    name: str,
    remedy: str,
    *,
    dtype: np.dtype[Any] | type[np.generic] | None = None,
    width: int | None = None,
) -> NDArray[Any]:
    """Memory-map dataset `name` of an HDF5 file, read-only.

    Args:
        path: The file.
        name: The dataset, with its groups: `wikipedia/neighbors`.
        remedy: What to tell the user to do when the file cannot be used.
        dtype: Type that its values must have; None: any.
        width: Columns that it must have, 0 where it has one dimension; None: any.

    Raises:
        ArtifactError: The file or dataset is missing, is cut short, is stored in compressed or chunked form, or has
            another type or shape.
    """
    with open_file(path, remedy) as file:
        if not isinstance(file.get(name), h5py.Dataset):
            raise ArtifactError(path, f"has no dataset {name!r}", remedy)
        dataset = file[name]
        shape, found, offset = dataset.shape, dataset.dtype, dataset.id.get_offset()
    if (dtype is not None and found != np.dtype(dtype).newbyteorder("<")) or not _has_width(shape, width):
        columns = "" if width is None else f" in {width} columns" if width else " in one dimension"
        needed = f"{np.dtype(dtype) if dtype is not None else 'numbers'}{columns}"
        raise ArtifactError(path, f"has {name!r} of type {found} and shape {shape}; needed is {needed}", remedy)
    bytes_needed = math.prod(shape) * found.itemsize
    if bytes_needed == 0:
        return np.empty(shape, found)
    if offset is None:
        raise ArtifactError(path, f"stores {name!r} in pieces, so it cannot be memory-mapped", remedy)
    size = path.stat().st_size
    if size < offset + bytes_needed:
        raise ArtifactError(path, f"ends at byte {size}, but {name!r} reaches to {offset + bytes_needed}", remedy)
    # As a plain array: numpy's memmap class costs some microseconds at every indexing.
    return np.memmap(path, dtype=found, mode="r", offset=offset, shape=shape).view(np.ndarray)


def _has_width(shape: tuple[int, ...] | None, width: int | None) -> bool:
    return shape is not None and (width is None or shape[1:] == ((width,) if width else ()))
