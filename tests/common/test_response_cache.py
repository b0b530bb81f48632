"""A file of responses: what a kill, another process and damage leave of it."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from retro.common.errors import ArtifactError
from retro.common.response_cache import OtherHeaderError, ResponseCache

HEADER = {"model": "a"}


def opened(path: Path, **more: Any) -> ResponseCache:
    return ResponseCache(path, HEADER, "Delete it", **more)


def test_what_was_kept_is_there_when_the_file_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "below" / "kept.jsonl"
    opened(path).add(["one", "two"], [[1, 2.5, None], {"text": "wörter\n  "}])
    again = opened(path)
    assert len(again) == 2
    assert (again["one"], again["two"]) == ([1, 2.5, None], {"text": "wörter\n  "})
    assert "three" not in again


def test_a_kill_at_any_byte_of_a_line_costs_that_line_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "kept.jsonl"
    opened(path).add(["one"], ["first"])
    before = path.read_bytes()
    opened(path).add(["two"], ["wörter"])
    whole = path.read_bytes()
    for size in range(len(before) + 1, len(whole)):
        path.write_bytes(whole[:size])
        caplog.clear()
        cut = opened(path)
        assert (len(cut), cut["one"]) == (1, "first")
        assert f"dropped 1 line ({size - len(before)} bytes)" in caplog.text
        cut.add(["two"], ["wörter"])
        assert path.read_bytes() == whole


def test_a_header_that_was_cut_short_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"
    opened(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:9])
    opened(path)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("text", ["my thesis", '{"model": "b"}\n', "[]\n"])
def test_a_file_of_something_else_is_refused_and_left_as_it_is(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other"
    path.write_text(text)
    with pytest.raises(OtherHeaderError, match=r"other: (is not a file of responses|begins with .*)\. Delete it"):
        opened(path)
    assert path.read_text() == text


@pytest.mark.parametrize(
    ("find", "put", "words"),
    [("first", "forst", "line 2 was changed"), ('"key"', '"kex"', "line 2 was changed"), ("{", "", "line 2 is broken")],
)
def test_a_damaged_line_is_named_with_its_number(tmp_path: Path, find: str, put: str, words: str) -> None:
    path = tmp_path / "kept.jsonl"
    cache = opened(path)
    cache.add(["one", "two"], ["first", "second"])
    header, line, rest = path.read_text().split("\n", 2)
    path.write_text("\n".join([header, line.replace(find, put, 1), rest]))
    with pytest.raises(ArtifactError, match=rf"kept\.jsonl: {words}.*Delete it"):
        opened(path)


def test_a_line_without_a_key_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"
    opened(path)
    with path.open("a") as stream:
        stream.write('{"response": 1}\n')
    with pytest.raises(ArtifactError, match="line 2 has no key"):
        opened(path)


def test_a_folder_in_the_place_of_the_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is a folder"):
        opened(tmp_path)


def test_each_response_is_observed_once_whoever_wrote_it(tmp_path: Path) -> None:
    path, seen = tmp_path / "kept.jsonl", list[tuple[str, Any]]()
    mine, other = opened(path, observe=lambda key, value: seen.append((key, value))), opened(path)
    other.add(["one"], [1])
    mine.add(["one", "two"], ["not the first", 2])
    assert seen == [("one", 1), ("two", 2)]
    assert mine["one"] == 1
    mine.refresh()
    assert len(seen) == 2
    assert "two" not in other
    other.refresh()
    assert other["two"] == 2


def test_who_writes_waits_for_the_one_that_writes_now(tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"
    cache = opened(path)
    writer = threading.Thread(target=cache.add, args=(["one"], [1]), daemon=True)
    with path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        writer.start()
        writer.join(0.3)
        assert writer.is_alive()
        assert path.read_bytes().count(b"\n") == 1
    writer.join(60)
    assert opened(path)["one"] == 1


def test_several_processes_append_to_one_file_and_no_line_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"
    code = (
        "import sys; from pathlib import Path; from retro.common.response_cache import ResponseCache\n"
        "cache = ResponseCache(Path(sys.argv[1]), {'model': 'a'}, '')\n"
        "for number in range(60): cache.add([f'{sys.argv[2]}-{number}', f'both-{number}'], ['x' * 5000, sys.argv[2]])"
    )
    workers = [subprocess.Popen([sys.executable, "-c", code, str(path), name]) for name in "ab"]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    cache = opened(path)
    assert len(cache) == 180
    assert path.read_bytes().count(b"\n") == 181
    assert {len(cache[f"{name}-{number}"]) for name in "ab" for number in range(60)} == {5000}
