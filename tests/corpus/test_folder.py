from __future__ import annotations

import inspect
import os
import sys
from pathlib import Path

import pytest

from retro.common.errors import DataError
from retro.corpus.folder import BROKEN_LINK, HIDDEN, LOOP, SEEN, SPECIAL, list_folder


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def names(folder: Path) -> list[str]:
    return [file.name for file in list_folder(folder).files]


def test_linked_folders_are_read_under_the_links_name(tmp_path: Path) -> None:
    top = fill(tmp_path / "top", "a.txt", "real/b.txt")
    fill(tmp_path / "elsewhere", "c.txt", "deep/d.txt")
    (top / "linked").symlink_to("../elsewhere")
    found = list_folder(top)
    assert [file.name for file in found.files] == ["a.txt", "linked/c.txt", "linked/deep/d.txt", "real/b.txt"]
    assert [file.path.read_text() for file in found.files] == ["a.txt", "c.txt", "deep/d.txt", "real/b.txt"]
    assert not found.passed_over


def test_a_folder_under_several_names_is_read_once_and_its_own_name_goes_first(tmp_path: Path) -> None:
    top = fill(tmp_path / "top", "z/b.txt")
    fill(tmp_path / "other", "c.txt")
    for link, target in (("a", "z"), ("y", "../other"), ("x", "../other")):
        (top / link).symlink_to(target)
    found = list_folder(top)
    assert [file.name for file in found.files] == ["x/c.txt", "z/b.txt"]
    assert found.passed_over == {SEEN: 2}


@pytest.mark.parametrize("target", [".", "..", "../..", "/"])
def test_a_link_to_a_folder_that_it_is_in_is_not_followed(tmp_path: Path, target: str) -> None:
    top = fill(tmp_path / "top", "sub/a.txt")
    fill(tmp_path, "beside.txt")
    (top / "sub" / "up").symlink_to(target)
    found = list_folder(top)
    assert [file.name for file in found.files] == ["sub/a.txt"]
    assert found.passed_over == {LOOP: 1}


def test_a_ring_of_two_linked_folders_ends(tmp_path: Path) -> None:
    top, one, two = (fill(tmp_path / name, f"{name}.txt") for name in ("top", "one", "two"))
    (top / "in").symlink_to(one)
    (one / "to").symlink_to(two)
    (two / "back").symlink_to(one)
    found = list_folder(top)
    assert [file.name for file in found.files] == ["in/one.txt", "in/to/two.txt", "top.txt"]
    assert found.passed_over == {LOOP: 1}


def test_what_is_no_file_is_counted_by_reason(tmp_path: Path) -> None:
    fill(tmp_path, "a.txt", ".b.txt", ".git/c.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "null.txt").symlink_to("/dev/null")
    (tmp_path / "lost.txt").symlink_to("nowhere")
    (tmp_path / "ring.txt").symlink_to("ring.txt")
    (tmp_path / "also.txt").symlink_to("a.txt")
    found = list_folder(tmp_path)
    assert [file.name for file in found.files] == ["a.txt", "also.txt"]
    assert found.passed_over == {HIDDEN: 2, SPECIAL: 2, BROKEN_LINK: 2}


def test_the_order_of_the_file_system_decides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top = fill(tmp_path / "top", "b/1.txt", "a/2.txt", "c.txt", "a.txt")
    fill(tmp_path / "shared", "s.txt")
    for link in ("b/l", "a/m", "k"):
        (top / link).symlink_to(tmp_path / "shared")
    before, listed = names(top), os.scandir
    assert before == ["a.txt", "a/2.txt", "a/m/s.txt", "b/1.txt", "c.txt"]

    class Backwards:
        def __init__(self, folder: str) -> None:
            with listed(folder) as entries:
                self.entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

        def __enter__(self) -> list[os.DirEntry[str]]:
            return self.entries

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(os, "scandir", Backwards)
    assert names(top) == before


def test_a_folder_that_may_not_be_listed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "a.txt", "closed/b.txt")
    listed = os.scandir

    def refuse(folder: str) -> object:
        if folder.endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return listed(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"closed: cannot be listed \(Permission denied\)\. Check its permissions"):
        list_folder(tmp_path)


def test_a_name_that_is_no_utf8_can_be_an_id(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xe9.txt"
    with open(path, "w") as file:  # noqa: PTH123 - a path of bytes
        file.write("text")
    [found] = list_folder(tmp_path).files
    assert found.name.encode() == b"caf\\xe9.txt"
    assert found.path.read_text() == "text"


def test_folders_may_lie_deeper_than_functions_may_call_themselves(tmp_path: Path) -> None:
    (tmp_path / ("d/" * 300)).mkdir(parents=True)
    (tmp_path / ("d/" * 300) / "a.txt").touch()
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 150)
    try:
        found = list_folder(tmp_path).files
    finally:
        sys.setrecursionlimit(before)
    assert [file.name for file in found] == ["d/" * 300 + "a.txt"]
