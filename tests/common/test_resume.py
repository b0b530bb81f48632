from __future__ import annotations

from pathlib import Path

import pytest

from retro.common.artifacts import Manifest, describe_files, write_manifest
from retro.common.block_stage import completed, fingerprints, remove_temporary_files, remove_unlisted_files
from retro.common.errors import ArtifactError

PARENT = Manifest(stage="corpus", config={}, parents={})


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    (tmp_path / "db.h5").write_bytes(b"rows")
    files = describe_files(tmp_path, ["db.h5"])
    write_manifest(
        tmp_path, Manifest(stage="db", config={"m": 4}, parents=fingerprints({"corpus": PARENT}), files=files)
    )
    return tmp_path


def test_an_unfinished_stage_has_no_manifest(tmp_path: Path) -> None:
    assert completed(tmp_path, "db", {"m": 4}, {"corpus": PARENT}) is None


def test_a_finished_stage_gives_its_manifest(finished: Path) -> None:
    manifest = completed(finished, "db", {"m": 4}, {"corpus": PARENT})
    assert manifest is not None
    assert manifest.config == {"m": 4}


def test_other_settings_or_parents_are_refused(finished: Path) -> None:
    with pytest.raises(ArtifactError, match="m was 4, now 5"):
        completed(finished, "db", {"m": 5}, {"corpus": PARENT})
    other = Manifest(stage="corpus", config={"seed": 1}, parents={})
    with pytest.raises(ArtifactError, match="was made from corpus"):
        completed(finished, "db", {"m": 4}, {"corpus": other})


def test_only_what_the_artifact_does_not_own_is_removed(finished: Path) -> None:
    for name in (".db.h5.7.tmp", "embeddings.h5", "report.json", "notes.txt"):
        (finished / name).write_bytes(b"")
    manifest = completed(finished, "db", {"m": 4}, {"corpus": PARENT})
    assert manifest is not None
    remove_unlisted_files(finished, manifest)
    assert sorted(path.name for path in finished.iterdir()) == ["db.h5", "manifest.json", "notes.txt", "report.json"]


def test_half_written_files_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".db.h5.7.tmp").write_bytes(b"")
    remove_temporary_files(tmp_path)
    assert list(tmp_path.iterdir()) == []
