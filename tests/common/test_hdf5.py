from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from retro.common.errors import ArtifactError
from retro.common.hdf5 import map_column, new_file, open_file, write_columns


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with new_file(tmp_path / "x.h5") as file:
        write_columns(file, {"b": np.arange(6, dtype=np.int32).reshape(3, 2), "empty": np.zeros((0, 4))})
        write_columns(file.create_group("a"), {"c": np.array([1.5, 2.5])})
        file.create_dataset("pieces", data=np.arange(100), chunks=(10,), compression="gzip")
    return tmp_path / "x.h5"


def test_columns_are_mapped_where_they_lie(path: Path) -> None:
    column = map_column(path, "b", "")
    assert isinstance(column.base, np.memmap)
    assert not column.flags.writeable
    assert column.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert map_column(path, "a/c", "").tolist() == [1.5, 2.5]


def test_columns_begin_where_numpy_reads_them_fast(tmp_path: Path) -> None:
    with new_file(tmp_path / "x.h5") as file:
        write_columns(file, {"a": np.zeros(5, np.uint8), "b": np.zeros(3, np.int64), "c": np.zeros(7, np.int32)})
    assert all(map_column(tmp_path / "x.h5", name, "").flags.aligned for name in "abc")


def test_an_empty_column_has_its_shape(path: Path) -> None:
    assert map_column(path, "empty", "").shape == (0, 4)


@pytest.mark.parametrize("name", ["z", "a"])
def test_a_column_that_is_not_there_is_named(path: Path, name: str) -> None:
    with pytest.raises(ArtifactError, match=f"has no dataset '{name}'. Do this"):
        map_column(path, name, "Do this")


def test_a_compressed_column_is_refused(path: Path) -> None:
    with pytest.raises(ArtifactError, match="stores 'pieces' in pieces"):
        map_column(path, "pieces", "")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"y\.h5: is missing. Do this"):
        map_column(tmp_path / "y.h5", "b", "Do this")


def test_a_file_cut_short_at_any_length_is_an_artifact_error(path: Path) -> None:
    content = path.read_bytes()
    for length in range(0, len(content) - 1, 211):
        path.write_bytes(content[:length])
        with pytest.raises(ArtifactError):
            map_column(path, "b", "")


def forged(path: Path, make: Callable[[h5py.File], object]) -> str:
    """What is said of a file that something was put into."""
    with h5py.File(path, "r+", libver=("earliest", "v110")) as file:
        make(file)
    with pytest.raises(ArtifactError) as caught, open_file(path, "Do this"):
        pass
    return str(caught.value)


def external_link(file: h5py.File) -> None:
    del file["b"]
    file["b"] = h5py.ExternalLink("/etc/passwd", "/b")


def soft_link(file: h5py.File) -> None:
    file["a/d"] = h5py.SoftLink("/b")


def external_storage(file: h5py.File) -> None:
    file.create_dataset("d", shape=(4,), dtype=np.uint8, external=[("/etc/passwd", 0, 4)])


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout(shape=(4,), dtype=np.uint8)
    layout[:] = h5py.VirtualSource("/tmp/other.h5", "x", shape=(4,))
    file.create_virtual_dataset("d", layout)


def too_large(file: h5py.File) -> None:
    file.create_dataset("d", shape=(1 << 40, 1 << 22), dtype=np.int64, chunks=(1 << 10, 1 << 10))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (external_link, "has a link in place of 'b'"),
        (soft_link, "has a link in place of 'a/d'"),
        (external_storage, "takes the values of 'd' from other files"),
        (virtual, "takes the values of 'd' from other files"),
        (lambda file: file.__setitem__("d", np.dtype(np.int32)), "has a type in place of the dataset 'd'"),
        (lambda file: file.create_dataset("d", data=[file.ref], dtype=h5py.ref_dtype), "something else than numbers"),
        (lambda file: file.create_dataset("d", data=["text"]), "has something else than numbers in 'd'"),
        (lambda file: file.create_dataset("d", data=np.zeros(2, "i4,f4")), "has something else than numbers in 'd'"),
        (lambda file: file["b"].attrs.create("x", file.ref, dtype=h5py.ref_dtype), "in attribute 'x' of b"),
        (lambda file: file["b"].attrs.__setitem__("x", "text"), "keeps attribute 'x' of b apart"),
        (lambda file: file["a"].__setitem__("d", file["b"]), "under several names"),
        (lambda file: file["a"].__setitem__("d", file), "under several names"),
        (too_large, "more than its .* bytes can hold"),
    ],
)
def test_what_leads_elsewhere_is_refused(path: Path, make: Callable[[h5py.File], object], words: str) -> None:
    assert re.search(words, forged(path, make))


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.h5")
    for path, words in (
        (tmp_path / "pipe.h5", "a named pipe"),
        (tmp_path, "a folder"),
        (Path("/dev/zero"), "a device"),
    ):
        with pytest.raises(ArtifactError, match=words), open_file(path, ""):
            pass


@pytest.mark.parametrize(
    ("dtype", "width", "words"),
    [
        (np.int64, None, r"has 'b' of type int32 and shape \(3, 2\); needed is int64"),
        (np.int32, 3, "needed is int32 in 3 columns"),
        (None, 0, "needed is numbers in one dimension"),
    ],
)
def test_a_column_of_another_type_or_shape_is_refused(path: Path, dtype: Any, width: int | None, words: str) -> None:
    assert map_column(path, "b", "", dtype=np.int32, width=2).shape == (3, 2)
    with pytest.raises(ArtifactError, match=words):
        map_column(path, "b", "", dtype=dtype, width=width)
