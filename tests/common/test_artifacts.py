"""Atomic writes, manifests, and what they say when something is wrong."""

from __future__ import annotations

import errno
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from retro.common.artifacts import (
    Manifest,
    command_of,
    describe_files,
    differences,
    fingerprint,
    read_manifest,
    require_file,
    require_parent,
    require_same_config,
    write_manifest,
)
from retro.common.errors import ArtifactError
from retro.common.files import atomic_path, read_json, write_json


def finished(directory: Path, **changes: Any) -> Manifest:
    directory.mkdir(exist_ok=True)
    (directory / "data.bin").write_bytes(b"0123456789")
    values: dict[str, Any] = {
        "stage": "db",
        "config": {"chunk_length": 64, "deep": {"a": 1}},
        "parents": {"corpus": "aaaa"},
        "files": describe_files(directory, ["data.bin"]),
    }
    return write_manifest(directory, Manifest(**(values | changes)))


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(ValueError, match="midway"), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise ValueError("midway")
    assert path.read_text() == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


def test_a_folder_where_a_file_is_to_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(ArtifactError, match="is a folder"), atomic_path(tmp_path / "file") as temporary:
        temporary.write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    left = tmp_path / f".file.{socket.gethostname()}.{int(dead.stdout)}.tmp"
    living = tmp_path / f".file.{socket.gethostname()}.1.tmp"
    elsewhere = tmp_path / f".file.another-host.{int(dead.stdout)}.tmp"
    for path in (left, living, elsewhere):
        path.write_text("half")
    with atomic_path(tmp_path / "file") as temporary:
        temporary.write_text("whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["file", living.name, elsewhere.name])


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("write failed: No space left on device")]
)
def test_a_full_disk_is_one_line_that_says_what_is_kept(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(ArtifactError, match=r"file: the disk is full; .* run the same command again"):  # noqa: SIM117
        with atomic_path(tmp_path / "file"):
            raise error
    assert list(tmp_path.iterdir()) == []


def test_other_system_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), atomic_path(tmp_path / "file"):
        raise PermissionError("no")


def test_a_manifest_reads_back_with_the_same_fingerprint(tmp_path: Path) -> None:
    made = finished(tmp_path / "db")
    assert read_manifest(tmp_path / "db", "db") == made
    assert read_manifest(tmp_path / "db", "db").fingerprint == made.fingerprint
    assert finished(tmp_path / "other", parents={"corpus": "bbbb"}).fingerprint != made.fingerprint


def test_fingerprints_do_not_depend_on_the_order_of_keys() -> None:
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1}) != fingerprint({"a": 1, "b": [3]})


def test_a_missing_manifest_says_which_stage_to_run(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"manifest.json: is missing. Run `retro db` first"):
        read_manifest(tmp_path, "db")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda d: (d / "data.bin").unlink(), "data.bin: is missing"),
        (lambda d: (d / "data.bin").write_bytes(b"012"), "has 3 bytes, its manifest says 10"),
        (lambda d: (d / "manifest.json").write_text("{"), "is not valid JSON"),
        (lambda d: (d / "manifest.json").write_text("[]"), "needed is: an object"),
        (
            lambda d: write_manifest(d, Manifest(stage="index", config={}, parents={})),
            "belongs to stage 'index', not 'db'",
        ),
        (lambda d: write_json(d / "manifest.json", read_json(d / "manifest.json", "") | {"parents": {}}), "was edited"),
    ],
)
def test_damage_is_named(tmp_path: Path, damage: Any, words: str) -> None:
    finished(tmp_path / "db")
    damage(tmp_path / "db")
    with pytest.raises(ArtifactError, match=words):
        read_manifest(tmp_path / "db", "db")


def test_a_flipped_byte_is_found_by_its_checksum(tmp_path: Path) -> None:
    finished(tmp_path / "db")
    read_manifest(tmp_path / "db", "db")
    (tmp_path / "db/data.bin").write_bytes(b"0123456780")
    with pytest.raises(ArtifactError, match=r"has SHA-256 .*bytes changed on disk"):
        read_manifest(tmp_path / "db", "db")


def test_remedies_name_the_command_of_a_recipe(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"is missing\. Run `retro recipe tiny run CONFIG label` first"):
        read_manifest(tmp_path, "tiny.label")
    finished(tmp_path / "label", stage="tiny.label")
    (tmp_path / "label/data.bin").write_bytes(b"0123456780")
    with pytest.raises(ArtifactError, match=r"changed on disk\. Run `retro recipe tiny run CONFIG label` with --redo"):
        read_manifest(tmp_path / "label", "tiny.label")
    assert command_of("tiny.label", "run.yaml") == "retro recipe tiny run run.yaml label"
    assert (command_of("db", "run.yaml"), command_of("db")) == ("retro db run.yaml", "retro db")


def test_a_file_is_checked_again_before_what_trusts_it_reads_it(tmp_path: Path) -> None:
    made = finished(tmp_path / "db")
    assert require_file(tmp_path / "db", made, "data.bin", "Run it again") == tmp_path / "db/data.bin"
    (tmp_path / "db/data.bin").write_bytes(b"0123456780")
    with pytest.raises(ArtifactError, match=r"bytes changed on disk\. Run it again"):
        require_file(tmp_path / "db", made, "data.bin", "Run it again")
    with pytest.raises(ArtifactError, match=r"more\.bin: is not among the files of the db here\. Run it again"):
        require_file(tmp_path / "db", made, "more.bin", "Run it again")


def test_another_parent_is_named_with_both_fingerprints_and_the_stage_to_rerun(tmp_path: Path) -> None:
    made = finished(tmp_path / "db")
    parent = Manifest(stage="corpus", config={}, parents={})
    words = rf"was made from corpus aaaa, but the corpus here is {parent.fingerprint}. Run `retro db` again"
    with pytest.raises(ArtifactError, match=words):
        require_parent(tmp_path / "db", made, "corpus", parent)


def test_other_settings_are_named_with_both_values(tmp_path: Path) -> None:
    made = finished(tmp_path / "db")
    wanted = json.loads(json.dumps(made.config)) | {"chunk_length": 32}
    wanted["deep"]["a"] = 2
    with pytest.raises(ArtifactError, match=r"chunk_length was 64, now 32; deep\.a was 1, now 2\. Use another run_dir"):
        require_same_config(tmp_path / "db", made, wanted)


def test_home_written_as_typed_by_an_older_version_is_no_other_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    made = {"sources": [{"path": "~/x"}], "seed": 1}
    assert differences(made, {"sources": [{"path": "/home/me/x"}], "seed": 1}) == []
    assert len(differences(made, {"sources": [{"path": "/home/you/x"}], "seed": 2})) == 2
