"""Arrays of numbers in a pickle: where in the file they are, in what type and shape. Nothing in the pickle is run.

numpy pickles an array as a call of a function of its own, with the numbers as one byte string. Only those calls are
understood, and only for plain numbers; the byte string stays in the file, to be mapped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retro.common.input_files import open_regular
from retro.common.plain_pickle import BytesInFile, DescribedObject, Name, Names, PickleError, read_plain_file

DTYPES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
"""Types of numbers that an array may have, by numpy's codes."""
# numpy 2 has other names for the modules of numpy 1.
_CORES = ("numpy.core", "numpy._core")
NAMES: Names = {
    "numpy": frozenset({"ndarray", "dtype"}),
    **{f"{core}.multiarray": frozenset({"_reconstruct"}) for core in _CORES},
    **{f"{core}.numeric": frozenset({"_frombuffer"}) for core in _CORES},
}
"""What such a file may name."""
_RECONSTRUCT = {Name(f"{core}.multiarray", "_reconstruct") for core in _CORES}
_FROM_BUFFER = {Name(f"{core}.numeric", "_frombuffer") for core in _CORES}
_MOST_AXES = 16
_NATIVE = ("<", "=", "|")


@dataclass(frozen=True)
class StoredArray:
    """Where in a file an array is."""

    path: Path
    start: int
    """Place of its first number, in bytes."""
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    columns_first: bool = False
    """Whether its numbers are in Fortran's order."""

    def map(self) -> NDArray[Any]:
        """Its numbers, left on disk until they are looked at."""
        if not math.prod(self.shape):
            return np.empty(self.shape, dtype=self.dtype)
        order: Any = "F" if self.columns_first else "C"
        return np.memmap(self.path, self.dtype, "r", self.start, self.shape, order)


def read_pickled(path: Path) -> Any:
    """The value of a pickle as `read_plain_file` gives it; `stored_array` tells what an object in it means.

    Raises:
        PickleError: It names something that is no part of an array, or is damaged.
        OSError: It cannot be read.
    """
    with open_regular(path) as stream:
        return read_plain_file(stream, NAMES)


def stored_array(path: Path, value: Any) -> StoredArray | None:
    """What a part of a pickle says of an array; None where it is no array.

    Args:
        path: The file.
        value: The part.

    Raises:
        PickleError: It is an array of something else than plain numbers, or the file does not hold its numbers.
    """
    if not isinstance(value, DescribedObject):
        return None
    match value.args, value.state:
        # _reconstruct(ndarray, (0,), b'b') with the state (version, shape, dtype, in Fortran's order, numbers)
        case (Name("numpy", "ndarray"), *_), (1, tuple() as shape, dtype, bool() as columns_first, content) if (
            value.of in _RECONSTRUCT
        ):
            return _checked(path, shape, _dtype(dtype), content, columns_first)
        # _frombuffer(numbers, dtype, shape, order)
        case (content, dtype, tuple() as shape, "C" | "F" as order), None if value.of in _FROM_BUFFER:
            return _checked(path, shape, _dtype(dtype), content, order == "F")
    return None


def _checked(
    path: Path, shape: tuple[Any, ...], dtype: np.dtype[Any], content: Any, columns_first: bool
) -> StoredArray:
    if len(shape) > _MOST_AXES or not all(type(length) is int and 0 <= length < 1 << 48 for length in shape):
        raise PickleError("it has an array whose shape is none")
    needed = math.prod(shape) * dtype.itemsize
    if not isinstance(content, BytesInFile) or content.length != needed:
        held = f"{content.length:,} bytes" if isinstance(content, BytesInFile) else "something else"
        raise PickleError(f"it has an array {shape} of {dtype}, which takes {needed:,} bytes, and holds {held} for it")
    return StoredArray(path, content.start, dtype, shape, columns_first)


def _dtype(value: Any) -> np.dtype[Any]:
    if not isinstance(value, DescribedObject) or value.of != Name("numpy", "dtype"):
        raise PickleError("it has an array of what are not plain numbers")
    match value.args, value.state:
        # dtype(code, align, copy) with the state (version, byte order, subarray, names, fields, …)
        case (str(code), *_), (int(), order, None, None, None, *_):
            if code not in DTYPES:
                raise PickleError(f"it has an array of {code[:20]!r}, which are not plain numbers")
            if order not in _NATIVE:
                raise PickleError("it has an array whose numbers have their bytes in another order than this machine")
            return np.dtype(code)
    raise PickleError("it has an array of what are not plain numbers")
