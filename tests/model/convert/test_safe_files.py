"""Which weight files of a HuggingFace folder count: those that transformers would load, and none beside them."""

from __future__ import annotations

import json
import logging
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from retro.common.errors import DataError, RetroError
from retro.model.convert.safe_files import SafeFiles

EVERY = (slice(0, 1),)


def save(folder: Path, name: str, **tensors: float) -> None:
    """A file of tensors of one number."""
    save_file({key: torch.tensor([value]) for key, value in tensors.items()}, folder / name)


def index(folder: Path, where: Any) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


@pytest.mark.parametrize(
    "other", ["a_backup.safetensors", "old_model.safetensors", "consolidated.safetensors", "adapter_model.safetensors"]
)
def test_a_file_beside_the_model_is_named_and_not_read(
    other: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, "model.safetensors", a=1.0)
    save(tmp_path, other, a=7.0, b=8.0)
    with caplog.at_level(logging.WARNING):
        files = SafeFiles(tmp_path)
    assert files.sizes == {"a": (1,)}
    assert files.read("a", EVERY).tolist() == [1.0]
    assert f"the weights are those of model.safetensors; not read: {other}" in caplog.text


def test_a_whole_model_counts_beside_an_index_that_was_left_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, "model.safetensors", a=1.0)
    index(tmp_path, {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"})
    assert SafeFiles(tmp_path).sizes == {"a": (1,)}
    assert "not read: model.safetensors.index.json" in caplog.text


def test_the_files_that_the_index_names_count_and_no_others(tmp_path: Path) -> None:
    save(tmp_path, "model-1.safetensors", a=1.0)
    save(tmp_path, "model-2.safetensors", b=2.0)
    save(tmp_path, "model-3.safetensors", a=7.0)
    index(tmp_path, {"a": "model-1.safetensors", "b": "model-2.safetensors"})
    files = SafeFiles(tmp_path)
    assert [files.read(name, EVERY).item() for name in ("a", "b")] == [1.0, 2.0]


def test_a_tensor_in_two_files_that_count_is_refused(tmp_path: Path) -> None:
    save(tmp_path, "model-1.safetensors", a=1.0)
    save(tmp_path, "model-2.safetensors", a=7.0, b=2.0)
    index(tmp_path, {"a": "model-1.safetensors", "b": "model-2.safetensors"})
    with pytest.raises(DataError, match=r"model-2\.safetensors: holds a, which model-1\.safetensors holds too"):
        SafeFiles(tmp_path)


def test_files_of_other_names_are_taken_where_there_is_one_only(tmp_path: Path) -> None:
    save(tmp_path, "weights.safetensors", a=1.0)
    assert SafeFiles(tmp_path).sizes == {"a": (1,)}
    save(tmp_path, "weights2.safetensors", a=2.0)
    with pytest.raises(
        DataError, match=r"has 2 safetensors files \(weights\.safetensors, weights2\.safetensors\), and"
    ):
        SafeFiles(tmp_path)


@pytest.mark.parametrize("where", [{"a": "../x.safetensors"}, {"a": 3}, {}, [], {"a": "model.bin"}, {"a": "x/"}])
def test_an_index_that_names_no_files_of_the_folder_is_refused(where: Any, tmp_path: Path) -> None:
    index(tmp_path, where)
    with pytest.raises(DataError, match=r"model\.safetensors\.index\.json: (names|is not an index)"):
        SafeFiles(tmp_path)


def forged(header: bytes, numbers: int, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + bytes(numbers)


def tensor(*, start: int, stop: int, shape: list[int]) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, stop]}


FORGED = {
    "a header longer than the file": forged(b"{}", 0, length=2**62),
    "tensors that overlap": forged(
        json.dumps({"a": tensor(start=0, stop=8, shape=[2]), "b": tensor(start=4, stop=12, shape=[2])}).encode(), 12
    ),
    "a gap": forged(json.dumps({"a": tensor(start=4, stop=8, shape=[1])}).encode(), 8),
    "a shape without its bytes": forged(json.dumps({"a": tensor(start=0, stop=4, shape=[10**9])}).encode(), 4),
    "sizes whose product overflows": forged(json.dumps({"a": tensor(start=0, stop=0, shape=[2**62, 8])}).encode(), 0),
    "numbers that are cut off": forged(json.dumps({"a": tensor(start=0, stop=400, shape=[100])}).encode(), 4),
    "a header nested deep": forged(b"[" * 100_000, 0),
    "nothing": b"",
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_header_is_one_error(name: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(FORGED[name])
    with pytest.raises(DataError, match=r"model\.safetensors: is not a whole safetensors file"):
        SafeFiles(tmp_path)


def test_a_folder_in_the_place_of_a_file_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(RetroError, match="is not a file"):
        SafeFiles(tmp_path)
