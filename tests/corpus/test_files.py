from __future__ import annotations

import gzip
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from retro.common.errors import ConfigError, DataError
from retro.corpus.config import SourceConfig
from retro.corpus.files import Source, is_heading, open_bytes, resolve
from retro.corpus.token_files import TokenFileWriter


def find(path: Path, **settings: Any) -> Source:
    return resolve(SourceConfig(name="s", path=path, **settings), path)


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.jsonl", b"", "jsonl"),
        ("a.ndjson", b"", "jsonl"),
        ("a.jsonl.gz", gzip.compress(b"", mtime=0), "jsonl"),
        ("a.txt", b"once upon a time", "text"),
        ("a.md", b"# once", "text"),
        ("a.txt", b"\n \n = Lobster = \n\n", "wikitext"),
        ("a.txt.gz", gzip.compress(b"= Lobster =\n", mtime=0), "wikitext"),
        ("wiki.valid.tokens", b" \n = Lobster = \n", "wikitext"),
        ("a.txt", b"= = Part = =\n", "text"),
        ("a.txt", b"", "text"),
    ],
)
def test_the_layout_is_told_from_the_ending_and_the_first_line(
    tmp_path: Path, name: str, content: bytes, kind: str
) -> None:
    (tmp_path / name).write_bytes(content)
    source = find(tmp_path / name)
    assert source.kind == kind
    assert [file.name for file in source.files] == [name]


def test_a_given_kind_is_not_guessed_over(tmp_path: Path) -> None:
    (tmp_path / "dump").write_bytes(b"{}")
    assert find(tmp_path / "dump", kind="jsonl").kind == "jsonl"
    with pytest.raises(DataError, match=r"dump: its ending '' does not tell how it is laid out"):
        find(tmp_path / "dump")


def test_a_folder_is_listed_in_sorted_order_without_hidden_files(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("b/x.md", "a.txt", "b.txt", "B.rst", ".git/y.txt", "b/.z.txt", "one.png", "two.pdf", "three.pdf"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text")
    with caplog.at_level(logging.WARNING):
        source = find(tmp_path)
    assert source.kind == "folder"
    assert [file.name for file in source.files] == ["B.rst", "a.txt", "b.txt", "b/x.md"]
    told = "not read: 3 files with other endings (.pdf, .png), 2 hidden (a name that begins with a dot)"
    assert f"{tmp_path}: {told}\n" in caplog.text


def test_a_folder_of_json_lines_is_read_as_json_lines(tmp_path: Path) -> None:
    for name in ("part-10.jsonl", "part-02.jsonl.gz"):
        (tmp_path / name).write_bytes(gzip.compress(b"") if name.endswith("gz") else b"")
    source = find(tmp_path)
    assert (source.kind, [file.name for file in source.files]) == ("jsonl", ["part-02.jsonl.gz", "part-10.jsonl"])


def test_a_folder_of_both_needs_a_kind(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    (tmp_path / "b.txt").touch()
    with pytest.raises(DataError, match=r"holds JSON lines \(\.jsonl\) and text \(\.txt\)\. Set the source's kind"):
        find(tmp_path)
    assert [file.name for file in find(tmp_path, kind="folder").files] == ["b.txt"]


def test_a_folder_without_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(DataError, match=r"holds no file with one of the endings \.txt"):
        find(tmp_path)


def test_a_folder_of_nothing_but_what_is_passed_over_says_so(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("nowhere")
    (tmp_path / ".b.txt").touch()
    with pytest.raises(DataError, match=r"\(also \.gz, \.zst\); it holds 1 broken links, 1 hidden \(a .*\)\. Give"):
        find(tmp_path)


def test_a_pipe_a_device_and_a_link_to_itself_are_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "ring.jsonl").symlink_to("ring.jsonl")
    (tmp_path / "lost.jsonl").symlink_to("gone.jsonl")
    for path, kind, told in (
        (tmp_path / "pipe.jsonl", "auto", "is a pipe, which can be read only once and may never end"),
        (tmp_path / "pipe.jsonl", "jsonl", "is a pipe, which"),
        (Path("/dev/zero"), "text", "is a device, which"),
        (tmp_path / "ring.jsonl", "auto", "cannot be read (Too many levels of symbolic links)"),
        (tmp_path / "lost.jsonl", "auto", "is a link to gone.jsonl, which is not there"),
        (tmp_path / ("x" * 300), "jsonl", "cannot be read (File name too long)"),
    ):
        with pytest.raises(DataError) as caught:
            find(path, kind=kind)
        assert told in str(caught.value)


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.jsonl: no such file or folder"):
        find(tmp_path / "nowhere.jsonl")


@pytest.mark.parametrize("given", ["old", "old.bin", "old.idx"])
def test_a_megatron_pair_is_found_by_prefix_or_by_either_file(tmp_path: Path, given: str) -> None:
    TokenFileWriter(tmp_path / "old", 100).finish()
    source = find(tmp_path / given)
    assert (source.kind, [file.name for file in source.files]) == ("megatron", ["old.bin", "old.idx"])


def test_the_unit_of_a_document_can_only_be_set_for_plain_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    with pytest.raises(ConfigError, match=r"corpus.sources.s.documents = 'line': needs to be auto for a jsonl source"):
        find(tmp_path / "a.jsonl", documents="line")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b" = Lobster = \n", True),
        (b"= E = m c =", True),
        (b" = = Description = = \n", False),
        (b"== Description ==", False),
        (b"= =", False),
        (b"a = b =", False),
        (b"", False),
    ],
)
def test_only_level_one_headings_count(line: bytes, expected: bool) -> None:
    assert is_heading(line) is expected


def test_reading_reports_the_bytes_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"x" * 100_000))
    seen: list[int] = []
    with open_bytes(path, seen.append) as stream:
        assert stream.read() == b"x" * 100_000
    assert sum(seen) == path.stat().st_size


@pytest.mark.parametrize("damage", ["cut", "flipped", "not gzip"])
def test_a_damaged_gz_is_an_error_that_names_the_file(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.jsonl.gz"
    good = bytearray(gzip.compress(bytes(range(256)) * 50))
    good[-6] ^= 255
    path.write_bytes({"cut": bytes(good[:-40]), "flipped": bytes(good), "not gzip": b"plain text"}[damage])
    with (
        pytest.raises(DataError, match=r"a\.jsonl\.gz: is cut short or damaged .*Fetch it again"),
        open_bytes(path) as stream,
    ):
        stream.read()


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"), open_bytes(tmp_path):
        pass
