"""What is written survives, what is removed leaves nothing that looks whole, and what cannot be written is said."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retro.common import checksummed_json
from retro.common.errors import ArtifactError
from retro.common.files import (
    discard,
    failed_write,
    failed_writes_are_artifact_errors,
    read_json,
    read_json_lines,
    require_space,
    write_json,
    write_plain_json,
)
from retro.common.json_files import parse_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=8,
)
RECORDS = st.dictionaries(st.text(st.characters(codec="utf-8")).filter(lambda name: name != "checksum"), VALUES)


@given(data=RECORDS, at=st.integers(min_value=0), change=st.integers(min_value=1, max_value=255))
def test_whatever_is_written_is_read_and_any_other_byte_in_it_is_found(
    data: dict[str, object], at: int, change: int
) -> None:
    def parse_document(text: str) -> tuple[object, str]:
        found: tuple[object, str] = checksummed_json.check_document(parse_json(text), text)
        return found

    for write, parse in (
        (checksummed_json.document, parse_document),
        (checksummed_json.line, checksummed_json.parse_line),
    ):
        text = write(data)
        assert parse(text) == (data, "")
        damaged = bytearray(text.encode())
        damaged[at % len(damaged)] ^= change
        try:
            assert parse(damaged.decode())[1]
        except ValueError:
            continue


def test_a_file_says_its_own_checksum_and_is_read_without_it(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"steps": {10: "ten", 9: "nine"}})
    said = json.loads(path.read_text())
    assert said["checksum"].startswith("own-sha256:")
    assert read_json(path, "") == {"steps": {"10": "ten", "9": "nine"}}
    path.write_text(path.read_text().replace("nine", "none"))
    with pytest.raises(ArtifactError, match=r"a\.json: was changed after .*: its own checksum differs\. Do it"):
        read_json(path, "Do it")


def test_a_file_without_a_checksum_is_of_an_older_version_and_is_read(tmp_path: Path) -> None:
    write_plain_json(tmp_path / "a.json", {"a": 1})
    assert (tmp_path / "a.json").read_text() == '{\n  "a": 1\n}\n'
    assert read_json(tmp_path / "a.json", "") == {"a": 1}
    # The name of the checksum alone is damaged.
    write_json(tmp_path / "a.json", {"a": 1})
    (tmp_path / "a.json").write_text((tmp_path / "a.json").read_text().replace('"checksum"', '"checksun"'))
    with pytest.raises(ArtifactError, match="was changed after it was written"):
        read_json(tmp_path / "a.json", "")


def test_the_last_line_may_be_cut_short_and_no_other(tmp_path: Path) -> None:
    lines = [checksummed_json.line({"step": step}) for step in (1, 2)]
    (tmp_path / "log.jsonl").write_text("".join(lines)[:-4])
    assert read_json_lines(tmp_path / "log.jsonl", "") == [{"step": 1}]
    (tmp_path / "log.jsonl").write_text(lines[0][:-4] + "\n" + lines[1])
    with pytest.raises(ArtifactError, match="line 1 is broken JSON"):
        read_json_lines(tmp_path / "log.jsonl", "")
    (tmp_path / "log.jsonl").write_text("[]\n")
    with pytest.raises(ArtifactError, match="line 1 is not a JSON object"):
        read_json_lines(tmp_path / "log.jsonl", "")
    with pytest.raises(ArtifactError, match="is missing"):
        read_json_lines(tmp_path / "nothing.jsonl", "")


def test_a_folder_that_is_removed_loses_its_name_before_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "step"
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")

    def killed(path: Path, ignore_errors: bool) -> None:
        if path.exists():
            raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        discard(folder)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == [".step.removed.tmp"]
    discard(folder)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full; this file was not written"),
        (OSError(errno.EIO, "Input/output error"), r"could not be written \(input/output error\)"),
        (RuntimeError("errno = 28, error message = 'No space left on device'"), "the disk is full"),
        (RuntimeError("unexpected pos 704 vs 598"), r"could not be written \(the disk is full or fails\)"),
    ],
)
def test_a_write_that_the_system_refused_is_one_error(error: Exception, said: str) -> None:
    found = pytest.raises(ArtifactError, match=rf"x: {said}.*run the same command again")
    with found, failed_writes_are_artifact_errors(Path("x")):
        raise error


def test_the_reason_is_found_in_what_went_wrong_first() -> None:
    try:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise RuntimeError("unexpected pos 704 vs 598")  # noqa: B904
    except RuntimeError as error:
        assert failed_write(error) == "no space left"
    assert failed_write(ValueError("of another kind")) == ""


def test_space_is_asked_for_before_a_file_grows_under_a_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 5, 5_000_000))
    require_space(tmp_path / "x", 5_000_000)
    with pytest.raises(ArtifactError, match=r"needs 1\.00 GB, and the disk has 0\.01 GB left: the disk is full"):
        require_space(tmp_path / "x", 10**9)


def test_no_file_takes_the_place_of_what_is_none(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, what in (("folder", "a folder"), ("pipe", "a named pipe")):
        with pytest.raises(ArtifactError, match=f"{name}: is {what}, and a file is to be written there"):
            write_json(tmp_path / name, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "pipe"]
