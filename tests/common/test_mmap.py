from __future__ import annotations

from pathlib import Path

import numpy as np
import psutil
import pytest

from retro.common.mmap import MappedFile, at_random

NUMBERS = np.arange(100_000, dtype=np.int32)


def mapped(path: Path) -> MappedFile:
    path.write_bytes(b"head" + NUMBERS.tobytes())
    return MappedFile(path, NUMBERS.dtype, len(NUMBERS), offset=4)


def test_a_mapped_file_is_its_elements_from_the_offset_on(tmp_path: Path) -> None:
    file = mapped(tmp_path / "numbers")
    assert np.array_equal(file.array, NUMBERS)
    assert not file.array.flags.writeable


def test_runs_asked_for_at_random_are_the_same_runs(tmp_path: Path) -> None:
    # From the first to the last element, within a page and over several.
    file, starts, counts = mapped(tmp_path / "numbers"), np.array([0, 1023, 50_000, 99_990]), np.array([1, 2, 9000, 10])
    file.will_need(starts, counts)
    file.advise(random=True)
    assert file.random
    file.will_need(starts, counts)
    for start, count in zip(starts.tolist(), counts.tolist(), strict=True):
        assert file.array[start : start + count].tolist() == list(range(start, start + count))
    file.advise(random=False)
    assert not file.random


def test_an_empty_file_is_an_empty_array(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    file = MappedFile(tmp_path / "empty", np.dtype(np.uint16), 0)
    file.advise(random=True)
    file.will_need(np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64))
    assert (len(file.array), file.random) == (0, False)


def test_auto_is_random_for_what_does_not_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = psutil.virtual_memory()._replace(available=1000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    assert [at_random("auto", size) for size in (1000, 1001)] == [False, True]
    assert (at_random("random", 1), at_random("plain", 10**9)) == (True, False)
