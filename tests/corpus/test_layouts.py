from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retro.common.errors import DataError
from retro.corpus import layouts
from retro.corpus.config import SourceConfig
from retro.corpus.files import resolve
from retro.corpus.layouts import Document, Item, Reject, read_source, words_in


def read(path: Path, content: bytes | None = None, min_words: int = 1, **settings: Any) -> list[Item]:
    if content is not None:
        path.write_bytes(content)
    source = resolve(SourceConfig(name="s", path=path, **settings), path)
    return list(read_source(source, min_words, lambda count: None))


def texts(items: list[Item]) -> list[tuple[str, str, str]]:
    assert all(isinstance(item, Document) for item in items), items
    return [(item.id, item.title, item.text) for item in items if isinstance(item, Document)]


def rejects(items: list[Item]) -> list[tuple[int, str, str]]:
    return [(item.line, item.reason, item.detail) for item in items if isinstance(item, Reject)]


def test_json_lines_give_id_title_and_text(tmp_path: Path) -> None:
    lines = [
        {"id": "a", "title": "A", "text": " one\ntwo "},
        {"id": 7, "text": "three", "title": None},
        {"text": "four"},
    ]
    content = "\n\n".join(json.dumps(line) for line in lines).encode()
    expected = [("a", "A", " one\ntwo "), ("7", "", "three"), ("f.jsonl:5", "", "four")]
    assert texts(read(tmp_path / "f.jsonl", content)) == expected
    assert texts(read(tmp_path / "f.jsonl.gz", gzip.compress(content)))[:2] == expected[:2]


def test_the_key_names_can_be_chosen(tmp_path: Path) -> None:
    content = b'{"body": "one", "key": "k", "head": "H", "text": 5}'
    assert texts(read(tmp_path / "f.jsonl", content, text_key="body", id_key="key", title_key="head")) == [
        ("k", "H", "one")
    ]


def test_a_byte_order_mark_is_not_text(tmp_path: Path) -> None:
    assert texts(read(tmp_path / "f.jsonl", b'\xef\xbb\xbf{"id": "a", "text": "one"}')) == [("a", "", "one")]


@pytest.mark.parametrize(
    ("line", "reason", "detail"),
    [
        (b'{"text": "cut', "invalid JSON", "column 10: Unterminated string"),
        (b"[" * 100_000, "invalid JSON", ""),
        (b"\xff\xfe", "invalid UTF-8", "byte 0xff at offset 0"),
        (b'{"text": "caf\xe9"}', "invalid UTF-8", "byte 0xe9 at offset 13"),
        (b'["text"]', "not a JSON object", "found list"),
        (b'{"\\ud800": 1}', "missing text", "no key 'text'; the line has: \\ud800"),
        (b'{"body": 1, "a": 2}', "missing text", "no key 'text'; the line has: a, body"),
        (b'{"text": ["a"]}', "text is not a string", "'text' is list"),
        (b'{"text": null}', "text is not a string", "'text' is NoneType"),
        (b'{"text": " \\n"}', "empty text", ""),
        (b'{"text": "a b"}', "too short", "2 words, 3 needed"),
        (b'{"text": "half \\ud83e here now"}', "lone surrogate", "\\ud83e"),
        (b'{"text": "a b c", "id": "\\uD83E"}', "lone surrogate", "\\ud83e"),
        (b'{"text": "a b c", "id": ["x"]}', "id or title is not a string", "'id' is list"),
        (b'{"text": "a b c", "title": true}', "id or title is not a string", "'title' is bool"),
    ],
)
def test_a_bad_line_is_set_aside_with_its_reason(tmp_path: Path, line: bytes, reason: str, detail: str) -> None:
    good = b'{"id": "g", "text": "a good line"}\n'
    items = read(tmp_path / "f.jsonl", good + line + b"\n" + good, min_words=3)
    assert [type(item) for item in items] == [Document, Reject, Document]
    [(number, found, told)] = rejects(items)
    assert (number, found) == (2, reason)
    assert told.startswith(detail)


def test_a_whole_surrogate_pair_is_a_character(tmp_path: Path) -> None:
    assert texts(read(tmp_path / "f.jsonl", b'{"id": "a", "text": "\\ud83e\\udd8a"}')) == [("a", "", "🦊")]


def test_a_reject_tells_how_the_line_starts(tmp_path: Path) -> None:
    [reject] = read(tmp_path / "f.jsonl", b"x" * 1000)
    assert isinstance(reject, Reject)
    assert (reject.file, reject.excerpt) == ("f.jsonl", "x" * 200)


def test_blank_lines_part_the_documents_of_a_text_file(tmp_path: Path) -> None:
    content = b"\r\none\r\ntwo\r\n\r\n \t\nthree\n"
    assert texts(read(tmp_path / "f.txt", content)) == [("f.txt:2", "", "one\ntwo"), ("f.txt:6", "", "three")]


def test_lines_or_the_whole_file_can_be_documents_instead(tmp_path: Path) -> None:
    content = b"\none\ntwo\n\nthree\n"
    lines = texts(read(tmp_path / "f.txt", content, documents="line"))
    assert lines == [("f.txt:2", "", "one"), ("f.txt:3", "", "two"), ("f.txt:5", "", "three")]
    assert texts(read(tmp_path / "f.txt", content, documents="file")) == [("f.txt", "f.txt", "one\ntwo\n\nthree")]


def test_each_file_of_a_folder_is_a_document(tmp_path: Path) -> None:
    for name, content in (
        ("b.md", b"# B\n\nbody\n"),
        ("a/c.txt", b"sea"),
        ("z.txt", b""),
        ("y.txt", b" \n"),
        ("x.txt", b"\xff"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    items = read(tmp_path)
    assert texts(items[:2]) == [("a/c.txt", "a/c.txt", "sea"), ("b.md", "b.md", "# B\n\nbody")]
    assert rejects(items) == [
        (1, "invalid UTF-8", "byte 0xff at offset 0"),
        (1, "empty text", ""),
        (1, "empty text", ""),
    ]


def test_wikitext_is_cut_at_level_one_headings(tmp_path: Path) -> None:
    content = b" \n = Lobster = \n \n It lives . \n \n = = Food = = \n \n = 1 = \n eats \n \n = Crab = \n \n Walks .\n"
    assert texts(read(tmp_path / "f.txt", content)) == [
        ("f.txt:2", "Lobster", " = Lobster = \n \n It lives . \n \n = = Food = = \n \n = 1 = \n eats"),
        ("f.txt:11", "Crab", " = Crab = \n \n Walks ."),
    ]


def test_wikitext_without_blank_lines_is_cut_too(tmp_path: Path) -> None:
    content = b"before\n= A =\none\n= B =\ntwo"
    found = texts(read(tmp_path / "f.tokens", content, kind="wikitext"))
    assert found == [("f.tokens:1", "", "before"), ("f.tokens:2", "A", "= A =\none"), ("f.tokens:4", "B", "= B =\ntwo")]


def test_a_bad_byte_costs_one_document_of_a_text_file(tmp_path: Path) -> None:
    items = read(tmp_path / "f.txt", b"one\n\ntwo \xff\n\nthree")
    assert texts([items[0], items[2]]) == [("f.txt:1", "", "one"), ("f.txt:5", "", "three")]
    assert rejects(items) == [(3, "invalid UTF-8", "byte 0xff at offset 4")]


def test_a_cut_gz_stops_the_source_because_what_is_missing_cannot_be_counted(tmp_path: Path) -> None:
    content = gzip.compress(b'{"text": "one"}\n' * 1000)
    with pytest.raises(DataError, match=r"f\.jsonl\.gz: is cut short or damaged"):
        read(tmp_path / "f.jsonl.gz", content[:-20])


def test_text_with_a_zero_byte_beside_each_letter_is_set_aside(tmp_path: Path) -> None:
    assert rejects(read(tmp_path / "f.txt", "some words".encode("utf-16-le"))) == [(1, "zero bytes", "10 of 20")]


@given(text=st.text(alphabet="ab é\n\x1c\u2003"), part=st.integers(1, 5))
def test_words_counted_slice_by_slice_are_those_of_split(text: str, part: int) -> None:
    with mock.patch.object(layouts, "_SLICE_CHARACTERS", part):
        assert words_in(text) == len(text.split())


@pytest.mark.parametrize("settings", [{}, {"documents": "line"}, {"documents": "file"}])
def test_lines_that_end_in_cr_alone_are_not_taken_for_one_line(tmp_path: Path, settings: dict[str, Any]) -> None:
    detail = "3 of them; `tr '\\r' '\\n'` mends it"
    assert rejects(read(tmp_path / "f.txt", b"one\rtwo\r\rthree", **settings)) == [(1, "lines end in CR alone", detail)]


def test_an_id_that_pandas_left_out_is_none(tmp_path: Path) -> None:
    found = read(tmp_path / "f.jsonl", b'{"id": NaN, "title": NaN, "text": "one"}\n')
    assert texts(found) == [("f.jsonl:1", "", "one")]


PASSAGES = (
    b"id\ttext\ttitle\n"
    b'1\t"Aaron is a ""prophet"" of Israel."\tAaron\n'
    b"2\tplain words\tAaron's rod\n"
    b"\n"
    b"3\tone cell less\n"
    b'4\t"never closed\tTitle\n'
    b"5\t\xff\tTitle\n"
    b"6\tlast one\tEnd"
)
"""As DPR's psgs_w100.tsv is written, with three lines that are none."""


def test_a_table_of_passages_gives_a_document_a_line(tmp_path: Path) -> None:
    items = read(tmp_path / "psgs.tsv", PASSAGES)
    assert texts([item for item in items if isinstance(item, Document)]) == [
        ("1", "Aaron", 'Aaron is a "prophet" of Israel.'),
        ("2", "Aaron's rod", "plain words"),
        ("6", "End", "last one"),
    ]
    assert rejects(items) == [
        (5, "other number of columns", "2, the first line has 3"),
        (6, "not a line of a table", "unexpected end of data"),
        (7, "invalid UTF-8", "byte 0xff at offset 2"),
    ]


def test_the_columns_of_a_table_can_be_named(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbfpid\tpassage\tpage\nx\tone\tP\n"
    found = read(tmp_path / "t.tsv", content, text_key="passage", id_key="pid", title_key="page")
    assert texts(found) == [("x", "P", "one")]
    with pytest.raises(DataError, match=r"t.tsv: its first line names no column 'text'; it has: pid, passage, page"):
        read(tmp_path / "t.tsv")


def test_a_table_may_be_compressed_and_empty(tmp_path: Path) -> None:
    assert len(read(tmp_path / "t.tsv.gz", gzip.compress(PASSAGES))) == 6
    assert read(tmp_path / "head.tsv", b"id\ttext\ttitle\n") == []
    with pytest.raises(DataError, match="its first line names no column 'text'; it has: "):
        read(tmp_path / "empty.tsv", b"")
