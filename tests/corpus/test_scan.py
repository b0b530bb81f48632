from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from retro.common.errors import DataError
from retro.corpus import scan
from retro.corpus.config import SourceConfig
from retro.corpus.files import Source, resolve
from retro.corpus.layouts import Span
from retro.corpus.manifest import Checksums, identify
from retro.corpus.scan import Scan, ScanWork
from retro.corpus.tokenize import plan_blocks


def folder_of(path: Path, contents: dict[str, bytes]) -> Source:
    for name, content in contents.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return resolve(SourceConfig(name="s", path=path, kind="jsonl"), path)


def surveyed(sources: list[Source], block_bytes: int, out: Path, remembered: Checksums | None = None) -> list[Scan]:
    work = ScanWork(sources, block_bytes, out)
    for number in range(len(work.groups)):
        work.store.write(number, work.make(number, lambda count: None))
    return work.collect({} if remembered is None else remembered)


def test_parts_know_their_first_line_and_files_their_checksum(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", {"a.jsonl": b"1\n22\n333\n4444\n", "b.jsonl": b"", "c.jsonl": b"5\n"})
    [found] = surveyed([source], 4, tmp_path / "out")
    # a: lines 1 and 2 are five bytes, line 3 four, line 4 the rest.
    assert found.spans == (
        Span(0, 0, 5, 1),
        Span(0, 5, 9, 3),
        Span(0, 9, 14, 4),
        Span(1, 0, 0, 1),
        Span(2, 0, 2, 1),
    )
    assert found.sizes == (5, 4, 5, 0, 2)
    assert found.identity[2] == {"name": "c.jsonl", "bytes": 2, "sha256": hashlib.sha256(b"5\n").hexdigest()}
    assert found.identity == identify(source, {})


def test_the_checksums_spare_the_next_run_the_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder_of(tmp_path / "in", {"a.jsonl": b"1\n", "b.jsonl": b"2\n"})
    remembered: Checksums = {}
    [found] = surveyed([source], 4, tmp_path / "out", remembered)
    monkeypatch.setattr("retro.corpus.manifest.sha256_file", lambda path: pytest.fail("read again"))
    assert identify(source, remembered) == found.identity


def test_how_files_are_grouped_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [
        folder_of(tmp_path / name, {f"{n:02d}.jsonl": b"x\n" * (n % 4) for n in range(12)}) for name in ("one", "two")
    ]
    whole = surveyed(sources, 3, tmp_path / "whole")
    for name, value in (("_GROUP_BYTES", 5), ("_GROUP_FILES", 2)):
        monkeypatch.setattr(scan, name, value)
        assert len(ScanWork(sources, 3, tmp_path / name).groups) > 4
        assert surveyed(sources, 3, tmp_path / name) == whole


def test_a_block_is_stale_once_its_file_was_written_to(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", {"a.jsonl": b"1\n"})
    surveyed([source], 4, tmp_path / "out")
    assert ScanWork([source], 4, tmp_path / "out").store.is_written(0)
    assert not ScanWork([source], 5, tmp_path / "out").store.is_written(0)
    os.utime(tmp_path / "in" / "a.jsonl", (1, 1))
    assert not ScanWork([source], 4, tmp_path / "out").store.is_written(0)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", {"a.jsonl": b"1\n"})
    work = ScanWork([source], 4, tmp_path / "out")
    (tmp_path / "in" / "a.jsonl").unlink()
    (tmp_path / "in" / "a.jsonl").mkdir()
    with pytest.raises(DataError, match=r"a\.jsonl: cannot be read \(Is a directory\)"):
        work.make(0, lambda count: None)


def test_a_file_that_shrinks_while_it_is_read_is_named(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", {"a.jsonl": b"1\n" * (1 << 20)})
    work = ScanWork([source], 1 << 26, tmp_path / "out")

    def cut(count: int) -> None:
        os.truncate(tmp_path / "in" / "a.jsonl", 10)

    with pytest.raises(DataError, match=r"a\.jsonl: ended at byte 1048576, but had 2097152\. Let it be"):
        work.make(0, cut)


def test_parts_are_gathered_into_blocks_of_some_size(tmp_path: Path) -> None:
    spans = tuple(Span(number, 0, size, 1) for number, size in enumerate((5, 1, 2, 9, 1)))
    found = Scan(identity=[], spans=spans, sizes=(5, 1, 2, 9, 1))
    plans = plan_blocks([found, found], 6)
    assert [(plan.source, [span.file for span in plan.spans], plan.bytes) for plan in plans] == [
        (0, [0, 1], 6),
        (0, [2, 3], 11),
        (0, [4], 1),
        (1, [0, 1], 6),
        (1, [2, 3], 11),
        (1, [4], 1),
    ]


def test_a_file_whose_name_is_no_utf8_is_surveyed(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("one two")
    config = SourceConfig(name="s", path=tmp_path)
    work = ScanWork([resolve(config, tmp_path)], 1000, tmp_path / "blocks")
    work.store.write(0, work.make(0, lambda count: None))
    (found,) = work.collect({})
    assert found.identity[0]["name"] == "caf\\xe9.txt"
