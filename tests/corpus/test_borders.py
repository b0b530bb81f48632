from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from retro.corpus.config import SourceConfig
from retro.corpus.files import Source, resolve
from retro.corpus.layouts import Item, Span, read_source, read_spans
from retro.corpus.scan import ScanWork, rule_of, split_points

LINES = [
    b"\n",
    b" \t\r\n",
    b"one two\n",
    b"\xff\n",
    b"= A =\n",
    b" = B = \r\n",
    b"= = part = =\n",
    b"= 1 =\n",
    b'{"text": "a b"}\n',
    b'{"text": "with a name", "id": "x"}\n',
    b"[1]\n",
    b"\xef\xbb\xbf\n",
    b"no line break",
    b"\xef\xbb\xbf= C =\n",
]


def source_of(path: Path, **kind: Any) -> Source:
    return resolve(SourceConfig(name="s", path=path, **kind), path)


def parts_of(source: Source, block_bytes: int, folder: Path) -> list[Span]:
    """The parts that the scan cuts a source into."""
    work = ScanWork([source], block_bytes, folder / "survey")
    for number in range(len(work.groups)):
        work.store.write(number, work.make(number, lambda count: None))
    return list(work.collect({})[0].spans)


def read_in_parts(source: Source, parts: list[Span]) -> list[Item]:
    return [item for part in parts for item in read_spans(source, (part,), 2, lambda count: None)]


KINDS: list[dict[str, Any]] = [
    {"kind": "jsonl"},
    {"kind": "text"},
    {"kind": "text", "documents": "line"},
    {"kind": "text", "documents": "file"},
    {"kind": "wikitext"},
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(kind.values()))
@settings(max_examples=150, deadline=None)
@example(lines=[LINES[4], LINES[11], LINES[4], LINES[0], LINES[4]], block_bytes=1)
@given(lines=st.lists(st.sampled_from(LINES), max_size=25), block_bytes=st.integers(1, 60))
def test_parts_read_alone_give_the_documents_of_the_whole(
    kind: dict[str, Any], lines: list[bytes], block_bytes: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("text")
    content = b"".join(lines)
    (folder / "f.txt").write_bytes(content)
    source = source_of(folder / "f.txt", **kind)
    parts = parts_of(source, block_bytes, folder)
    assert read_in_parts(source, parts) == list(read_source(source, 2, lambda count: None))
    assert [part.start for part in parts[1:]] == [part.end for part in parts[:-1]]
    assert (parts[0].start, parts[-1].end) == (0, len(content))


def cuts_of(content: bytes, block_bytes: int, folder: Path, **kind: Any) -> list[int]:
    (folder / "f.txt").write_bytes(content)
    with io.BytesIO(content) as stream:
        rule = rule_of(source_of(folder / "f.txt", **kind), stream)
        return list(split_points(stream, len(content), block_bytes, rule)) if rule else [0]


def test_lines_are_cut_where_the_next_one_begins(tmp_path: Path) -> None:
    #          0         10        20        30
    content = b"012345678\n012345678\n012345678\n0123"
    for block_bytes, expected in ((1, [0, 10, 20, 30]), (10, [0, 10, 20, 30]), (11, [0, 20]), (34, [0])):
        assert cuts_of(content, block_bytes, tmp_path, kind="jsonl") == expected


def test_paragraphs_are_cut_behind_a_blank_line_only(tmp_path: Path) -> None:
    content = b"one\ntwo\n\nthree\n \t\nfour\nfive\n"
    assert cuts_of(content, 1, tmp_path, kind="text") == [0, 9, 18]


def test_articles_are_cut_at_headings_of_the_files_kind_only(tmp_path: Path) -> None:
    spaced = b"= A =\n\none\n= 1 =\ntwo\n= B =\n\nthree\n= = C = =\n\n"
    assert cuts_of(spaced, 1, tmp_path, kind="wikitext") == [0, spaced.index(b"= B")]
    # Here a heading with a blank line behind it counts too, but a part that begins with it would take it as the rule.
    tight = b"= A =\none\n= B =\n\ntwo\n= C =\nthree\n"
    assert cuts_of(tight, 1, tmp_path, kind="wikitext") == [0, tight.index(b"= C")]
    assert cuts_of(b"no\nheading\n\nhere\n", 1, tmp_path, kind="wikitext") == [0]


def test_a_file_that_is_one_document_is_one_part(tmp_path: Path) -> None:
    assert cuts_of(b"one\n\ntwo\n", 1, tmp_path, kind="text", documents="file") == [0]


def test_a_line_longer_than_a_block_is_kept_whole(tmp_path: Path) -> None:
    content = b"x" * 1000 + b"\n" + b"y\n"
    assert cuts_of(content, 10, tmp_path, kind="jsonl") == [0, 1001]


def test_compressed_files_are_one_part_each(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a b c"}\n' * 50))
    source = source_of(tmp_path)
    assert parts_of(source, 1, tmp_path / "out") == [Span(0, 0, None, 1), Span(1, 0, None, 1)]
