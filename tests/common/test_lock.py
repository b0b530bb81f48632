"""A run directory is held by one process, or shared by those that agree to."""

from __future__ import annotations

from pathlib import Path

import pytest

from retro.common.errors import ArtifactError
from retro.common.leases import run_lock


def test_a_held_directory_is_refused_until_it_is_free(tmp_path: Path) -> None:
    with (
        run_lock(tmp_path),
        pytest.raises(ArtifactError, match=r"\.lock: another process works in this run"),
        run_lock(tmp_path),
    ):
        pass
    with run_lock(tmp_path):
        pass


def test_those_who_share_keep_out_those_who_do_not(tmp_path: Path) -> None:
    refused = pytest.raises(ArtifactError, match="another process")
    with run_lock(tmp_path, shared=True), run_lock(tmp_path, shared=True), refused, run_lock(tmp_path):
        pass
    with run_lock(tmp_path), refused, run_lock(tmp_path, shared=True):
        pass


def test_locks_of_other_names_are_other_locks(tmp_path: Path) -> None:
    with run_lock(tmp_path), run_lock(tmp_path, name=".lock_2"):
        pass


def test_only_the_first_process_of_a_launcher_holds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with run_lock(tmp_path):
        monkeypatch.setenv("RANK", "1")
        with run_lock(tmp_path):
            pass
