"""HDF5 as our stages use it: the same bytes on every machine, and datasets that readers memory-map.

A contiguous, uncompressed dataset is one run of bytes in its file, so a reader asks HDF5 once for the offset and
then indexes a memory map: about 80 times the rows per second of h5py's own row selection, and safe after a fork.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from retro.common.errors import ArtifactError

# What h5py raises for a file that is cut short or damaged depends on where the damage is.
UNREADABLE = (OSError, RuntimeError, KeyError, ValueError, TypeError)


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
    process ends. h5py then prints above whatever the user is told, and crashes the process in the end. Here the first
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
def open_file(path: Path, remedy: str) -> Iterator[h5py.File]:
    """Open `path` for reading.

    Raises:
        ArtifactError: The file is missing, or HDF5 cannot read it.
    """
    if not path.exists():
        raise ArtifactError(path, "is missing", remedy)
    try:
        with h5py.File(path, "r") as file:
            yield file
    except UNREADABLE as error:
        reason = " ".join(str(error).split())
        raise ArtifactError(path, f"cannot be read as HDF5 ({reason})", remedy) from None


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


def map_column(path: Path, name: str, remedy: str) -> NDArray[Any]:
    """Memory-map dataset `name` of an HDF5 file, read-only.

    Args:
        path: The file.
        name: The dataset, with its groups: `wikipedia/neighbors`.
        remedy: What to tell the user to do when the file cannot be used.

    Raises:
        ArtifactError: The file or dataset is missing, is cut short, or is stored in compressed or chunked form.
    """
    with open_file(path, remedy) as file:
        if not isinstance(file.get(name), h5py.Dataset):
            raise ArtifactError(path, f"has no dataset {name!r}", remedy)
        dataset = file[name]
        shape, dtype, offset = dataset.shape, dataset.dtype, dataset.id.get_offset()
    bytes_needed = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if bytes_needed == 0:
        return np.empty(shape, dtype)
    if offset is None:
        raise ArtifactError(path, f"stores {name!r} in pieces, so it cannot be memory-mapped", remedy)
    found = path.stat().st_size
    if found < offset + bytes_needed:
        raise ArtifactError(path, f"ends at byte {found}, but {name!r} reaches to {offset + bytes_needed}", remedy)
    # As a plain array: numpy's memmap class costs some microseconds at every indexing.
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape).view(np.ndarray)
