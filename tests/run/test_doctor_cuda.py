"""CUDA's versions beside each other, with versions made up, and found in folders made for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from retro.run import doctor_cuda
from retro.run.doctor_cuda import compare_versions, examine, find_home, toolkit_version


@pytest.mark.parametrize(
    ("toolkit", "torch_cuda", "state", "words"),
    [
        ("12.4", "12.4", "ok", "toolkit 12.4 and torch for 12.4"),
        ("12.4.1", "12.4", "ok", "toolkit 12.4.1"),
        ("12.1", "12.8", "note", "another minor version, which DeepSpeed accepts"),
        ("13.0", "13.1", "problem", "torch is built for 13.1"),
        ("11.8", "12.4", "problem", "toolkit 11.8, torch is built for 12.4"),
        ("12.4", None, "note", "torch is no CUDA build, the toolkit is 12.4"),
        (None, "12.4", "note", "there is no CUDA toolkit"),
        (None, None, "note", "torch is no CUDA build, and there is no CUDA toolkit"),
    ],
)
def test_two_versions_are_compared(toolkit: str | None, torch_cuda: str | None, state: str, words: str) -> None:
    found = compare_versions(toolkit, torch_cuda)
    assert (found.state, words in found.found) == (state, True)


def test_a_mismatch_has_both_ways_out_and_says_what_skipping_does() -> None:
    found = compare_versions("11.8", "12.4", home="/opt/cuda")
    assert "toolkit 11.8 in /opt/cuda" in found.found
    assert "https://download.pytorch.org/whl/cu118" in found.advice
    assert "install CUDA toolkit 12.4, and point CUDA_HOME to it" in found.advice
    assert "DS_SKIP_CUDA_CHECK=1 only leaves out the check" in found.advice
    assert "hides it" not in found.found
    assert compare_versions("11.8", "12.4", skipped=True).found.endswith("DS_SKIP_CUDA_CHECK=1 hides it")


def test_the_toolkit_is_found_by_variable_then_by_nvcc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvcc = tmp_path / "toolkit" / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 12.6, V12.6.85'\n")
    nvcc.chmod(0o755)
    assert find_home({"CUDA_HOME": "/a", "CUDA_PATH": "/b"}) == Path("/a")
    assert find_home({"CUDA_PATH": "/b"}) == Path("/b")
    assert find_home({"PATH": str(nvcc.parent)}) == tmp_path / "toolkit"
    monkeypatch.setattr(doctor_cuda, "USUAL", tmp_path / "none")
    assert find_home({"PATH": str(tmp_path)}) is None
    monkeypatch.setattr(doctor_cuda, "USUAL", tmp_path)
    assert find_home({"PATH": str(tmp_path)}) == tmp_path
    assert toolkit_version(tmp_path / "toolkit") == "12.6"


@pytest.mark.parametrize(
    ("text", "version"),
    [(json.dumps({"cuda": {"name": "CUDA SDK", "version": "12.4.1"}}), "12.4"), ("{}", None), ("broken", None)],
)
def test_the_version_is_read_from_the_toolkits_own_file(tmp_path: Path, text: str, version: str | None) -> None:
    (tmp_path / "version.json").write_text(text)
    assert toolkit_version(tmp_path) == version


def test_a_machine_without_either_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_cuda, "torch_builds", dict)
    monkeypatch.setattr(doctor_cuda, "USUAL", tmp_path / "none")
    found = examine({"PATH": str(tmp_path)})
    assert (found.state, "there is no CUDA toolkit" in found.found) == ("note", True)


def test_both_versions_of_a_machine_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "version.json").write_text('{"cuda": {"version": "11.8.0"}}')
    builds: dict[str, Any] = {"cuda": "12.4"}
    monkeypatch.setattr(doctor_cuda, "torch_builds", lambda: builds)
    found = examine({"CUDA_HOME": str(tmp_path), "DS_SKIP_CUDA_CHECK": "1"})
    assert found.state == "problem"
    assert f"toolkit 11.8 in {tmp_path}, torch is built for 12.4" in found.found
    assert "hides it" in found.found
