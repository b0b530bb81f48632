from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from retro.common.errors import ArtifactError
from retro.corpus import manifest
from retro.corpus.config import SourceConfig
from retro.corpus.files import resolve
from retro.corpus.manifest import first_difference, identify, require_unchanged


def entry(name: str, size: int = 1, digest: str = "ab") -> dict[str, object]:
    return {"name": name, "bytes": size, "sha256": digest}


def test_each_file_is_told_with_name_size_and_checksum(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_bytes(b"bee")
    (tmp_path / "a.txt").write_bytes(b"")
    source = resolve(SourceConfig(name="s", path=tmp_path), tmp_path)
    digests = [hashlib.sha256(content).hexdigest() for content in (b"", b"bee")]
    assert identify(source, {}) == [entry("a.txt", 0, digests[0]), entry("b.txt", 3, digests[1])]


def test_an_unchanged_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_bytes(b"one")
    source = resolve(SourceConfig(name="s", path=tmp_path), tmp_path)
    remembered: dict[str, str] = {}
    first = identify(source, remembered)
    with monkeypatch.context() as patch:
        patch.setattr(manifest, "sha256_file", lambda path: pytest.fail("read again"))
        assert identify(source, remembered) == first
    (tmp_path / "a.txt").write_bytes(b"two!")
    assert identify(source, remembered) != first


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        ([entry("a")], [entry("a")], ""),
        ([entry("a")], [entry("a"), entry("b")], "b is new"),
        ([entry("a"), entry("b")], [entry("a")], "b is gone"),
        ([entry("a", 1)], [entry("a", 2)], "a had 1 bytes (SHA-256 ab…), now 2 bytes (SHA-256 ab…)"),
        ([entry("a")], [entry("a", 1, "cd")], "a had 1 bytes (SHA-256 ab…), now 1 bytes (SHA-256 cd…)"),
    ],
)
def test_the_first_difference_is_put_into_words(
    before: list[dict[str, object]], now: list[dict[str, object]], words: str
) -> None:
    assert first_difference(before, now) == words


def test_changed_input_under_a_finished_corpus_is_an_error(tmp_path: Path) -> None:
    require_unchanged(tmp_path, "wiki", [entry("a")], [entry("a")])
    with pytest.raises(
        ArtifactError, match=r"source 'wiki' was made from other input: b is new. Put the old input back"
    ):
        require_unchanged(tmp_path, "wiki", [entry("a")], [entry("a"), entry("b")])
