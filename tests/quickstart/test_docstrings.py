"""Docstrings of packages are read from their source, each once, and nothing of a package is run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from retro.common.errors import DataError
from retro.quickstart.docstrings import DocstringCounts, installed_package, write_docstrings


def package(folder: Path, name: str = "pack") -> Path:
    root = folder / name
    (root / "inner").mkdir(parents=True)
    (root / "tests").mkdir()
    (root / "__init__.py").write_text('"""One two three four."""\nraise SystemExit("was imported")\n')
    (root / "inner" / "part.py").write_text(
        '"""Short."""\n'
        "class Thing:\n"
        '    """Five six\n\n       seven eight."""\n'
        "    def do(self):\n"
        '        """Nine ten eleven twelve."""\n'
        "async def run():\n"
        '    """One  two\n    three four."""\n'
    )
    (root / "broken.py").write_text("def (:\n")
    (root / "tests" / "test_it.py").write_text('"""Thirteen fourteen fifteen sixteen."""\n')
    return root


def test_every_docstring_stands_there_once_below_its_name(tmp_path: Path) -> None:
    counts = write_docstrings(tmp_path / "out.jsonl", [package(tmp_path)], min_words=4)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(line["id"], line["text"]) for line in lines] == [
        ("0:pack", "pack\n\nOne two three four."),
        ("0:pack.inner.part.Thing", "pack.inner.part.Thing\n\nFive six\n\nseven eight."),
        ("0:pack.inner.part.Thing.do", "pack.inner.part.Thing.do\n\nNine ten eleven twelve."),
    ]
    assert counts == DocstringCounts(documents=3, words=12, short=1, repeated=1, unreadable=1)


def test_two_versions_of_a_package_are_two_sets_of_documents(tmp_path: Path) -> None:
    old, new = package(tmp_path / "old"), package(tmp_path / "new")
    counts = write_docstrings(tmp_path / "out.jsonl", [old, new], min_words=4)
    ids = [json.loads(line)["id"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert counts.documents == len(set(ids)) == 6


def test_a_folder_without_any_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no docstring of 60 words"):
        write_docstrings(tmp_path / "out.jsonl", [package(tmp_path)])
    assert not (tmp_path / "out.jsonl").exists()


def test_packages_are_found_without_importing_them() -> None:
    before = set(sys.modules)
    assert (installed_package("sklearn") / "__init__.py").exists()
    assert "sklearn" in before or "sklearn" not in sys.modules
    for name in ("no_such_package_here", "../etc", "this"):
        with pytest.raises(DataError, match="no such package is installed"):
            installed_package(name)
