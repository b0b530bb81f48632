"""Tensors of a file that torch.save wrote, read without torch's own unpickler.

    archive/data.pkl     a pickle of everything but numbers; read as plain data
    archive/data/0       the numbers of a storage, as they are in memory

Where torch says `weights_only`, it still makes what the file asks for: storages inflated from a few bytes, byte arrays
of any length. Here a tensor is a place in the file and a shape, checked against the bytes that are there, and nothing
is taken for it before it is asked for. A file may be a part of a larger one, as in a sharded checkpoint.
"""

from __future__ import annotations

import io
import struct
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retro.common.errors import short_reason
from retro.common.plain_pickle import PERSISTENT, DescribedObject, Name, Names, PickleError, read_plain

MOST_PICKLED = 64 * 1024**2
"""Bytes of a pickle, and of a file's list of contents, at most."""

DTYPES: dict[str, torch.dtype] = {
    name: getattr(torch, name)
    for name in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
}
"""Precisions that a tensor may have, by torch's name."""
_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
NAMES: Names = {
    "torch": frozenset({*_STORAGES, *DTYPES, "Size", "device"}),
    "torch._utils": frozenset({"_rebuild_tensor_v2", "_rebuild_parameter"}),
    "collections": frozenset({"OrderedDict", "defaultdict"}),
}
"""What such a file may name."""
_REBUILD_TENSOR = Name("torch._utils", "_rebuild_tensor_v2")
_REBUILD_PARAMETER = Name("torch._utils", "_rebuild_parameter")
_MOST_AXES = 16


@dataclass(frozen=True)
class StoredTensor:
    """Where in a file a tensor is."""

    path: Path
    start: int
    """Place of its first number, in bytes."""
    dtype: torch.dtype
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def contiguous(self) -> bool:
        """Whether its numbers are one after the other, in order."""
        expected = 1
        for length, step in zip(reversed(self.size), reversed(self.stride), strict=True):
            if length != 1 and step != expected:
                return False
            expected *= length
        return True

    def read(self, rows: slice | None = None) -> Tensor:
        """Its numbers, or those of some rows of its first axis.

        Raises:
            OSError: The file cannot be read, or has become shorter.
        """
        size, start = self.size, self.start
        if rows is not None and self.contiguous:
            start += rows.start * _numel(size[1:]) * self.dtype.itemsize
            size = (rows.stop - rows.start, *size[1:])
        if not _numel(size):
            return torch.empty(size, dtype=self.dtype)
        count = _numel(size) if self.contiguous else _extent(size, self.stride)
        buffer = bytearray(count * self.dtype.itemsize)
        with self.path.open("rb") as stream:
            stream.seek(start)
            if stream.readinto(buffer) != len(buffer):
                raise OSError("the file is cut short")
        flat = torch.frombuffer(buffer, dtype=self.dtype)
        if self.contiguous:
            return flat.view(size)
        whole = flat.as_strided(size, self.stride)
        return whole if rows is None else whole[rows]

    def map(self) -> Tensor:
        """Its numbers, left on disk until they are looked at; a copy in memory where they are at an odd place."""
        if self.start % self.dtype.itemsize or not _numel(self.size):
            return self.read()
        storage: Any = torch.UntypedStorage.from_file(str(self.path), shared=False, nbytes=self.path.stat().st_size)
        place = self.start // self.dtype.itemsize
        return torch.empty(0, dtype=self.dtype).set_(storage, place, self.size, self.stride)


class TorchFile:
    """A file of torch.save, or the part of a larger file that is one."""

    def __init__(self, path: Path, start: int = 0, length: int | None = None, names: Names = NAMES) -> None:
        """Read its list of contents.

        Args:
            path: The file.
            start: Where it begins there, in bytes.
            length: Its bytes; None reaches to the end.
            names: What its pickle may name.

        Raises:
            PickleError: It is not such a file, or is damaged.
            OSError: It cannot be read.
        """
        if path.exists() and not path.is_file():
            raise PickleError("it is not a file")
        self.path, self._names = path, names
        self._start, self._length = start, path.stat().st_size - start if length is None else length
        try:
            self._records = self._list()
        # NotImplementedError is how zipfile refuses an archive of a later version or another compression.
        except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError, OverflowError, struct.error) as error:
            why = short_reason(error)
            raise PickleError(f"it is cut short or not a torch file of version 1.6 or later ({why})") from None
        pickles = [name for name in self._records if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise PickleError("it is not a torch file of version 1.6 or later (it has no data.pkl)")
        self._folder = pickles[0].removesuffix("data.pkl")

    @cached_property
    def value(self) -> Any:
        """What was saved, as `read_plain` gives it; `tensor` tells what a `Made` in it means.

        Raises:
            PickleError: It names something that is not a tensor, or is damaged.
        """
        if self._bytes("byteorder", b"little", 16).strip() != b"little":
            raise PickleError("its numbers have their bytes in another order than this machine")
        return read_plain(self._bytes("data.pkl", b"", MOST_PICKLED), self._names)

    def tensor(self, value: Any) -> StoredTensor | None:
        """What a part of `value` says of a tensor; None where it is not a tensor.

        Raises:
            PickleError: The file does not hold the numbers that the tensor would be made of.
        """
        if isinstance(value, DescribedObject) and value.of == _REBUILD_PARAMETER and value.args:
            value = value.args[0]
        if not isinstance(value, DescribedObject) or value.of != _REBUILD_TENSOR:
            return None
        match value.args:
            case (DescribedObject() as storage, int() as offset, tuple() as size, tuple() as stride, *_):
                dtype, start, count = self._storage(storage)
            case _:
                raise PickleError("it has a tensor without a size")
        if len(size) != len(stride) or len(size) > _MOST_AXES or not all(map(_is_count, (offset, *size, *stride))):
            raise PickleError("it has a tensor whose size is none")
        # The second keeps a tensor from being larger than its numbers, every row of it the same ones.
        if offset + _extent(size, stride) > count or _numel(size) > count:
            raise PickleError("it has a tensor that is larger than the numbers it holds for it")
        return StoredTensor(self.path, start + offset * dtype.itemsize, dtype, size, stride)

    def _storage(self, made: DescribedObject) -> tuple[torch.dtype, int, int]:
        """The precision of a storage, where it begins in the file, and how many numbers it has."""
        match made.args:
            case (("storage", Name("torch", kind), str(key), _, int(count)),) if made.of == PERSISTENT:
                dtype = _STORAGES.get(kind)
            case _:
                raise PickleError("it has a tensor without numbers")
        record = self._records.get(f"{self._folder}data/{key}")
        if dtype is None or record is None:
            raise PickleError("it has a tensor whose numbers it does not hold")
        start, size = self._place(record)
        if count < 0 or count * dtype.itemsize > size:
            raise PickleError("it has a tensor that is larger than the numbers it holds for it")
        return dtype, start, count

    def _list(self) -> dict[str, zipfile.ZipInfo]:
        with self.path.open("rb") as stream, zipfile.ZipFile(_Window(stream, self._start, self._length)) as archive:
            found = archive.infolist()
        records = {record.filename: record for record in found}
        if len(records) != len(found):
            raise PickleError("it has two parts of the same name")
        return records

    def _place(self, record: zipfile.ZipInfo) -> tuple[int, int]:
        """Where the bytes of a part begin in the file, and how many they are."""
        if record.compress_type != zipfile.ZIP_STORED or record.file_size != record.compress_size:
            raise PickleError("its parts are compressed, which torch does not do")
        # A list of contents that is damaged gives places before the file's beginning.
        if record.header_offset < 0:
            raise PickleError("it is damaged (a part begins before the file)")
        with self.path.open("rb") as stream:
            stream.seek(self._start + record.header_offset)
            header = stream.read(30)
        if len(header) != 30 or not header.startswith(b"PK\x03\x04"):
            raise PickleError("it is damaged (a part does not begin where it should)")
        name, extra = struct.unpack("<HH", header[26:])
        start = record.header_offset + 30 + name + extra
        if start + record.file_size > self._length:
            raise PickleError("it is cut short")
        return self._start + start, record.file_size

    def _bytes(self, name: str, default: bytes, most: int) -> bytes:
        record = self._records.get(self._folder + name)
        if record is None:
            return default
        start, size = self._place(record)
        if size > most:
            raise PickleError(f"its {name} is {size} bytes long, needed are at most {most}")
        with self.path.open("rb") as stream:
            stream.seek(start)
            return stream.read(size)


class _Window(io.RawIOBase):
    """A part of a file as a file of its own, which gives no more bytes at once than a list of contents has."""

    def __init__(self, stream: io.BufferedReader, start: int, length: int) -> None:
        self._stream, self._start, self._length, self._at = stream, start, length, 0

    def seekable(self) -> bool:
        """It is."""
        return True

    def readable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Where the next byte is read."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length}[whence]
        if base + offset < 0:
            raise ValueError("a place before its beginning")
        self._at = base + offset
        return self._at

    def read(self, size: int = -1) -> bytes:
        """Bytes from here on."""
        rest = max(self._length - self._at, 0)
        size = rest if size < 0 else min(size, rest)
        if size > MOST_PICKLED // 4:
            raise ValueError("its list of contents is too long")
        self._stream.seek(self._start + self._at)
        found = self._stream.read(size)
        self._at += len(found)
        return found


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 48


def _numel(size: tuple[int, ...]) -> int:
    count = 1
    for length in size:
        count *= length
    return count


def _extent(size: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """Numbers from the first to the last of a tensor."""
    if not _numel(size):
        return 0
    return 1 + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
