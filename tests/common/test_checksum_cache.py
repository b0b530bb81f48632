from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from retro.common import checksum_cache
from retro.common.checksum_cache import VERIFIED, forget, known_sha256
from retro.common.errors import ArtifactError


@pytest.fixture(autouse=True)
def nothing_remembered() -> None:
    checksum_cache._sha256_of.cache_clear()


def settled(path: Path, content: bytes) -> str:
    """A file last changed an hour ago; gives its SHA-256."""
    path.write_bytes(content)
    hour_ago = path.stat().st_mtime - 3600
    os.utime(path, (hour_ago, hour_ago))
    return hashlib.sha256(content).hexdigest()


def test_a_file_that_did_not_change_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    digest = settled(path, b"1")
    assert known_sha256(path) == digest
    checksum_cache._sha256_of.cache_clear()
    monkeypatch.setattr(checksum_cache, "sha256_file", lambda path: pytest.fail("read again"))
    assert known_sha256(path) == digest


@pytest.mark.parametrize("content", [b"2", b"22"])
def test_a_file_that_changed_is_read_again(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a"
    settled(path, b"1")
    known_sha256(path)
    path.write_bytes(content)
    assert known_sha256(path) == hashlib.sha256(content).hexdigest()


def test_a_file_changed_a_moment_ago_is_not_remembered(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    known_sha256(tmp_path / "a")
    assert not (tmp_path / VERIFIED).exists()


def test_what_is_forgotten_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a"
    settled(path, b"1")
    known_sha256(path)
    status = path.stat()
    # As a disk that fails changes it: no time tells.
    path.write_bytes(b"2")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert known_sha256(path) == hashlib.sha256(b"1").hexdigest()
    forget(tmp_path)
    assert known_sha256(path) == hashlib.sha256(b"2").hexdigest()


def test_a_damaged_memory_costs_a_reading(tmp_path: Path) -> None:
    digest = settled(tmp_path / "a", b"1")
    (tmp_path / VERIFIED).write_text("{")
    assert known_sha256(tmp_path / "a") == digest
    assert list(json.loads((tmp_path / VERIFIED).read_text())) == ["a", "checksum"]


def test_a_missing_file_is_a_system_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        known_sha256(tmp_path / "a")


def test_a_folder_in_its_place_costs_readings_and_forgetting_names_it(tmp_path: Path) -> None:
    (tmp_path / VERIFIED).mkdir()
    digest = settled(tmp_path / "a", b"1")
    assert known_sha256(tmp_path / "a") == digest
    with pytest.raises(ArtifactError, match="is a folder"):
        forget(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [VERIFIED, "a"]


def test_a_file_of_the_users_is_remembered_in_a_folder_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, ours = tmp_path / "theirs" / "a", tmp_path / "ours"
    theirs.parent.mkdir()
    ours.mkdir()
    digest = settled(theirs, b"1")
    assert known_sha256(theirs, ours) == digest
    assert not (theirs.parent / VERIFIED).exists()
    checksum_cache._sha256_of.cache_clear()
    monkeypatch.setattr(checksum_cache, "sha256_file", lambda path: pytest.fail("read again"))
    assert known_sha256(theirs, ours) == digest
