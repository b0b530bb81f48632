"""Writing a shard as a stream: ids and vectors go to the file as they come, so that none of it is held in memory.

The file is the pickle of (list of ids, array) that Contriever's tools read. Its instructions are written out here, for
Python's own pickler takes whole objects only. Names are those of numpy 1, which numpy 2 knows too.
"""

# Dims in this file. N passages of a shard   D dimension

from __future__ import annotations

import itertools
import pickle
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from retro.common.files import atomic_path

_PROTOCOL = 4
"""Python 3.4 and later read it."""
_AT_ONCE = 1000
"""Ids appended to the list by one instruction, as Python's pickler has it."""


def stream_shard(
    path: Path, ids: Iterable[str], blocks: Iterable[NDArray[Any]], shape: tuple[int, int], dtype: np.dtype[Any]
) -> None:
    """Write a shard from parts, atomically.

    Args:
        path: The file.
        ids: N ids.
        blocks: The rows of the vectors, some at a time, in the order of the ids.
        shape: N and D.
        dtype: float16 or float32.

    Raises:
        ValueError: There are not N ids, or the blocks have not N rows of D values.
        ArtifactError: The disk is full.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        stream.write(pickle.PROTO + bytes([_PROTOCOL]))
        count = _write_list(stream, ids)
        if count != shape[0]:
            raise ValueError(f"a shard needs a vector for each id, got {count} ids and {shape[0]} vectors")
        _write_array_until_its_numbers(stream, shape, dtype)
        rows = 0
        for block_PD in blocks:
            if block_PD.shape[1:] != shape[1:]:
                raise ValueError(f"a shard of {shape} got a block {block_PD.shape}")
            stream.write(np.ascontiguousarray(block_PD, dtype=dtype).data)
            rows += len(block_PD)
        if rows != shape[0]:
            raise ValueError(f"a shard needs a vector for each id, got {shape[0]} ids and {rows} vectors")
        stream.write(pickle.TUPLE + pickle.BUILD + pickle.TUPLE2 + pickle.STOP)


def _write_list(stream: BinaryIO, ids: Iterable[str]) -> int:
    stream.write(pickle.EMPTY_LIST)
    count = 0
    left = iter(ids)
    while some := tuple(itertools.islice(left, _AT_ONCE)):
        stream.write(pickle.MARK + b"".join(map(_text, some)) + pickle.APPENDS)
        count += len(some)
    return count


def _write_array_until_its_numbers(stream: BinaryIO, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
    """`_reconstruct(ndarray, (0,), b'b')` and its state (1, shape, dtype, False, numbers) up to the numbers."""
    empty = pickle.BININT1 + b"\0" + pickle.TUPLE1 + pickle.SHORT_BINBYTES + b"\1b"
    made = _name("numpy.core.multiarray", "_reconstruct") + _name("numpy", "ndarray") + empty + pickle.TUPLE3
    stream.write(made + pickle.REDUCE + pickle.MARK + pickle.BININT1 + b"\1")
    stream.write(b"".join(map(_number, shape)) + pickle.TUPLE2 + _dtype(dtype) + pickle.NEWFALSE)
    stream.write(pickle.BINBYTES8 + struct.pack("<Q", shape[0] * shape[1] * dtype.itemsize))


def _dtype(dtype: np.dtype[Any]) -> bytes:
    """`dtype(code, False, True)` with its state (3, byte order, None, None, None, -1, -1, 0)."""
    code = _name("numpy", "dtype") + _text(dtype.str[1:]) + pickle.NEWFALSE + pickle.NEWTRUE + pickle.TUPLE3
    state = pickle.BININT1 + b"\3" + _text("<") + 3 * pickle.NONE + 2 * _number(-1) + pickle.BININT1 + b"\0"
    return code + pickle.REDUCE + pickle.MARK + state + pickle.TUPLE + pickle.BUILD


def _name(module: str, name: str) -> bytes:
    return _text(module) + _text(name) + pickle.STACK_GLOBAL


def _number(value: int) -> bytes:
    return pickle.BININT + struct.pack("<i", value)


def _text(value: str) -> bytes:
    content = value.encode("utf-8", "surrogatepass")
    if len(content) < 256:
        return pickle.SHORT_BINUNICODE + bytes([len(content)]) + content
    return pickle.BINUNICODE + struct.pack("<I", len(content)) + content
