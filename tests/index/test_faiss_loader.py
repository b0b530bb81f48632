from __future__ import annotations

import sys
from importlib import metadata
from types import ModuleType

import pytest

from retro.common.errors import DependencyError
from retro.index.faiss_loader import load_faiss


def test_faiss_is_loaded() -> None:
    assert hasattr(load_faiss(), "index_factory")


def test_a_missing_faiss_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(DependencyError, match=r'faiss: cannot be imported .*pip install "instruct-retro\[cpu\]"'):
        load_faiss()


def test_a_faiss_whose_files_were_removed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", ModuleType("faiss"))
    with pytest.raises(DependencyError, match="installed in part"):
        load_faiss()


def test_both_builds_together_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name in {"faiss-cpu", "faiss-gpu"}:
            return "1.15.1"
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(DependencyError, match="faiss-cpu and faiss-gpu are both installed"):
        load_faiss()
