from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from retro.common.errors import DataError
from retro.corpus import pystdlib, pystdlib_collect


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "python.jsonl"
    pystdlib.collect_documents(path)
    return path


@pytest.fixture(scope="module")
def entries(text: Path) -> dict[str, dict[str, str]]:
    lines = [json.loads(line) for line in text.read_text().splitlines()]
    found = {line["id"]: line for line in lines}
    assert len(found) == len(lines)
    return found


def test_topics_and_docstrings_are_there_under_their_names(entries: dict[str, dict[str, str]]) -> None:
    assert entries["topic:assert"]["title"] == "assert"
    assert "debugging assertions" in entries["topic:assert"]["text"]
    assert entries["heapq.nlargest"]["text"].startswith("heapq.nlargest\n\nFind the n largest elements")
    known = {"builtins.len", "collections.OrderedDict.move_to_end", "os.open", "json", "asyncio.gather"}
    assert known <= set(entries)


def test_it_is_about_as_large_as_promised(entries: dict[str, dict[str, str]]) -> None:
    words = sum(len(entry["text"].split()) for entry in entries.values())
    assert 200_000 < words < 450_000
    assert len(entries) > 4_000


def test_no_text_stands_there_twice_and_none_holds_an_address(entries: dict[str, dict[str, str]]) -> None:
    texts = [entry["text"].removeprefix(entry["id"]).strip() for entry in entries.values()]
    assert len(set(texts)) == len(texts)
    # Topics are fixed texts of a Python release, which may print an address that was; a docstring's is this process's.
    assert not any(" at 0x" in entry["text"] for name, entry in entries.items() if not name.startswith("topic:"))


def test_modules_with_side_effects_are_left_alone(entries: dict[str, dict[str, str]]) -> None:
    names = pystdlib_collect.module_names()
    tops = {name.partition(".")[0] for name in names}
    assert tops.isdisjoint({"antigravity", "this", "idlelib", "test", "tkinter", "turtle", "site", "readline"})
    assert not any(name.endswith("__main__") or ".test" in name for name in names)
    assert {"json.decoder", "xml.etree.ElementTree", "concurrent.futures.thread"} <= set(names)
    assert not any(name.startswith("tkinter") for name in entries)


def test_another_process_in_other_surroundings_writes_the_same_bytes(text: Path, tmp_path: Path) -> None:
    environment = {"PYTHONHASHSEED": "7", "HOME": "/nowhere", "COLUMNS": "33", "TZ": "Asia/Tokyo"}
    command = [sys.executable, "-S", "-s", "-P", "-B", pystdlib_collect.__file__, str(tmp_path / "b.jsonl")]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")
    assert (tmp_path / "b.jsonl").read_bytes() == text.read_bytes()


def test_a_text_of_this_interpreter_is_kept_and_any_other_made_anew(text: Path, tmp_path: Path) -> None:
    path = tmp_path / "python.jsonl"
    pystdlib.collect_documents(path)
    before = path.stat().st_mtime_ns
    pystdlib.collect_documents(path)
    assert path.stat().st_mtime_ns == before
    path.write_text("{}")
    pystdlib.collect_documents(path)
    assert path.read_bytes() == text.read_bytes()


def test_a_failing_interpreter_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "script.py"
    script.write_text("raise SystemExit('no such thing')")
    monkeypatch.setattr(pystdlib_collect, "__file__", str(script))
    with pytest.raises(DataError, match="pystdlib: the collecting process ended with code 1 no such thing"):
        pystdlib.collect_documents(tmp_path / "a.jsonl")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="pystdlib: the collecting process failed"):
        pystdlib.collect_documents(tmp_path / "a.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["script.py"]
