"""Files of torch.save are read without torch's unpickler: as it reads them, or not at all."""

from __future__ import annotations

import io
import os
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from retro.common.plain_pickle import PickleError
from retro.mcore.torch_files import TorchFile

TENSORS: dict[str, Tensor] = {
    "float32": torch.arange(12, dtype=torch.float32).view(3, 4),
    "bfloat16": torch.randn(5, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16),
    "int64": torch.tensor([[1, -2]]),
    "bool": torch.tensor([True, False]),
    "scalar": torch.tensor(3.5),
    "empty": torch.zeros(0, 4),
    "transposed": torch.arange(12.0).view(3, 4).T,
    "a part": torch.arange(20.0)[5:11],
    "parameter": nn.Parameter(torch.ones(2, 2)),
}


def test_tensors_are_those_that_torch_loads(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "x.pt")
    file = TorchFile(tmp_path / "x.pt")
    for name, wanted in TENSORS.items():
        stored = file.tensor(file.value[name])
        assert stored is not None
        for found in (stored.read(), stored.map()):
            assert found.dtype == wanted.dtype
            assert torch.equal(found, wanted)


def test_rows_are_read_alone_and_from_the_middle_of_a_larger_file(tmp_path: Path) -> None:
    saved = io.BytesIO()
    torch.save(TENSORS["float32"], saved)
    (tmp_path / "x").write_bytes(b"before" + saved.getvalue() + b"behind")
    file = TorchFile(tmp_path / "x", 6, len(saved.getvalue()))
    stored = file.tensor(file.value)
    assert stored is not None
    assert stored.read(slice(1, 3)).tolist() == [[4, 5, 6, 7], [8, 9, 10, 11]]


def test_what_is_no_tensor_is_none(tmp_path: Path) -> None:
    torch.save({"a": 1}, tmp_path / "x.pt")
    assert TorchFile(tmp_path / "x.pt").tensor({"a": 1}) is None


def rewritten(path: Path, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> None:
    """Write the parts of a file again."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in parts.items():
            archive.writestr(name, change(name, data))


def pickled(change: Callable[[bytes], bytes]) -> Callable[[str, bytes], bytes]:
    return lambda name, data: change(data) if name.endswith("data.pkl") else data


def expanded(path: Path) -> None:
    torch.save(torch.zeros(1).expand(10**6), path)


def compressed(path: Path) -> None:
    torch.save(torch.zeros(10**5), path)
    rewritten(path, lambda _, data: data, zipfile.ZIP_DEFLATED)
    # torch itself takes this: 400,000 bytes from a file of a thousand.
    assert path.stat().st_size < 5_000
    assert torch.load(path, weights_only=True).numel() == 10**5


def without_numbers(path: Path) -> None:
    torch.save(torch.zeros(100), path)
    rewritten(path, lambda name, data: data[:8] if name.endswith("data/0") else data)


def of_another_machine(path: Path) -> None:
    torch.save(torch.zeros(2), path)
    rewritten(path, lambda name, data: b"big" if name.endswith("byteorder") else data)


def code(path: Path) -> None:
    torch.save(torch.zeros(2), path)
    rewritten(path, pickled(lambda _: pickle.dumps(print, 2)))


def a_long_array(path: Path) -> None:
    torch.save(torch.zeros(2), path)
    rewritten(path, pickled(lambda _: b"cbuiltins\nbytearray\n(I1000000000000\ntR."))


FORGED: dict[str, tuple[Callable[[Path], None], str]] = {
    "a million rows that are one": (expanded, "larger than the numbers it holds for it"),
    "compressed numbers": (compressed, "its parts are compressed"),
    "too few numbers": (without_numbers, "larger than the numbers it holds for it"),
    "another order of bytes": (of_another_machine, "bytes in another order"),
    "code": (code, r"it names __builtin__\.print"),
    "a long array": (a_long_array, r"it names builtins\.bytearray"),
}


@pytest.mark.parametrize(("make", "message"), FORGED.values(), ids=FORGED.keys())
def test_a_forged_file_is_refused_before_anything_is_taken_for_it(
    make: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    make(tmp_path / "x.pt")
    with pytest.raises(PickleError, match=message):
        read_all(tmp_path / "x.pt")


def read_all(path: Path) -> Any:
    file = TorchFile(path)
    value = file.value
    for one in value.values() if isinstance(value, dict) else [value]:
        stored = file.tensor(one)
        if stored is not None:
            stored.read()
            stored.map()
    return value


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.pt")
    with pytest.raises(PickleError, match="it is not a file"):
        TorchFile(tmp_path / "x.pt")


def test_any_bytes_give_a_value_or_one_error(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save(TENSORS, path)
    seed, generator = path.read_bytes(), random.Random(3)
    refused = 0
    for _ in range(150):
        data = bytearray(seed)
        for _ in range(generator.randint(1, 8)):
            data[generator.randrange(len(data))] = generator.randrange(256)
        path.write_bytes(data[: generator.choice([len(data), len(data), generator.randrange(len(data))])])
        try:
            read_all(path)
        except PickleError:
            refused += 1
    assert refused > 20
