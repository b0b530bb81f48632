from __future__ import annotations

import importlib
import io
import json
from pathlib import Path
from typing import Any

import pytest

from retro.common.errors import DataError, DependencyError
from retro.corpus.build import run
from retro.corpus.files import open_bytes
from tests.corpus.texts import artifact_bytes, settings, write_stories


def test_without_zstandard_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    (tmp_path / "a.jsonl.zst").write_bytes(b"")
    monkeypatch.setattr(importlib, "import_module", missing)
    with (
        pytest.raises(
            DependencyError, match=r'zstandard: reads .zst files.*Run `pip install "instruct-retro\[formats\]"`'
        ),
        open_bytes(tmp_path / "a.jsonl.zst"),
    ):
        pass


def test_frames_are_read_one_behind_the_other(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    texts = [bytes(range(256)) * 2000, b"", b"the end"]
    (tmp_path / "a.zst").write_bytes(b"".join(zstandard.compress(text) for text in texts))
    seen: list[int] = []
    with open_bytes(tmp_path / "a.zst", seen.append) as stream:
        assert stream.read() == b"".join(texts)
    assert sum(seen) == (tmp_path / "a.zst").stat().st_size


@pytest.mark.parametrize("damage", ["cut", "flipped", "not zst", "large window"])
def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path, damage: str) -> None:
    zstandard = pytest.importorskip("zstandard")
    good = zstandard.ZstdCompressor(write_checksum=True).compress(bytes(range(256)) * 50)
    flipped = good[:-2] + bytes([good[-2] ^ 255]) + good[-1:]
    wide = io.BytesIO()
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=30)
    with zstandard.ZstdCompressor(compression_params=parameters).stream_writer(wide, closefd=False) as writer:
        writer.write(b"x" * 1000)
    content = {"cut": good[:-3], "flipped": flipped, "not zst": b"plain text", "large window": wide.getvalue()}
    (tmp_path / "a.jsonl.zst").write_bytes(content[damage])
    with (
        pytest.raises(DataError, match=r"a\.jsonl\.zst: is cut short or damaged .*Fetch it again; `zstd -t`"),
        open_bytes(tmp_path / "a.jsonl.zst") as stream,
    ):
        stream.read()


def test_compressed_lines_make_the_same_tokens(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    plain = write_stories(tmp_path / "a.jsonl", 30).read_bytes()
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(plain))
    for name in ("a.jsonl", "a.jsonl.zst"):
        run(settings({"name": "a", "path": tmp_path / name}), tmp_path / "out" / name)
    one, other = (artifact_bytes(tmp_path / "out" / name) for name in ("a.jsonl", "a.jsonl.zst"))
    assert one["a.bin"] == other["a.bin"]
    assert json.loads(one["a.documents.jsonl"].splitlines()[0]) == {"id": "d0", "title": "Story 0"}
