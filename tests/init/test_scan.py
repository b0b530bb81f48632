"""What a folder holds is counted by the corpus stage's reader, in each way to part it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from retro.common.errors import DataError
from retro.init import scan as scanning
from retro.init.scan import scan
from tests.init.texts import write_books, write_notes


def test_long_files_are_counted_whole_by_blank_lines_and_by_lines(tmp_path: Path) -> None:
    (found,) = scan(write_books(tmp_path / "books", books=2, paragraphs=40))
    assert found.kind == "folder"
    assert [(cut.unit, cut.documents, cut.short_documents) for cut in found.cuts] == [
        ("file", 2, 0), ("blank_line", 84, 4), ("line", 84, 4),
    ]  # fmt: skip
    assert found.cuts[1].short_characters == 4 * len("Chapter 0")
    assert found.bytes_read == sum(path.stat().st_size for path in (tmp_path / "books").iterdir())


def test_the_text_of_json_lines_is_found_under_its_own_key(tmp_path: Path) -> None:
    lines = [json.dumps({"url": "x", "article": f"A text of {number} words."}) for number in range(3)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    (found,) = scan(tmp_path / "a.jsonl")
    assert (found.kind, found.config.text_key, found.cuts[0].documents) == ("jsonl", "article", 3)


def test_the_text_of_a_table_is_found_in_its_own_column(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"n": [1, 2], "content": ["one text", "two texts"]}), tmp_path / "a.parquet")
    (found,) = scan(tmp_path)
    assert (found.kind, found.config.text_key, found.cuts[0].documents) == ("parquet", "content", 2)


def test_a_source_that_is_read_in_part_is_estimated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = write_notes(tmp_path / "notes", notes=40)
    whole = scan(notes)[0].cuts[0]
    size = sum(path.stat().st_size for path in notes.iterdir())
    monkeypatch.setattr(scanning, "MOST_READ", size // 4)
    part = scan(notes)[0]
    assert part.bytes_read < size
    assert abs(part.cuts[0].documents - whole.documents) <= 4
    assert abs(part.cuts[0].characters / whole.characters - 1) < 0.1


def test_pages_beside_texts_are_a_source_of_their_own(tmp_path: Path) -> None:
    pytest.importorskip("inscriptis")
    notes = write_notes(tmp_path / "notes", notes=3)
    (notes / "page.html").write_text("<p>The tide is high at noon.</p>")
    assert [(one.config.name, one.cuts[0].documents) for one in scan(notes)] == [("folder", 3), ("html", 1)]


def test_nothing_to_read_is_said_with_what_was_found(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent: no such file or folder"):
        scan(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: holds no file with one of the endings \.txt"):
        scan(tmp_path / "empty")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/a.png").write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match=r"it holds 1 files with other endings \(\.png\)"):
        scan(tmp_path / "pictures")
    (tmp_path / "blank.txt").write_text("\n\n")
    with pytest.raises(DataError, match=r"blank\.txt: holds no document \(its files are empty\)\. Give a folder"):
        scan(tmp_path / "blank.txt")
    (tmp_path / "wide.txt").write_bytes("Füße\n".encode("utf-16"))
    with pytest.raises(DataError, match=r"wide\.txt: holds no document .*it is UTF-16.*iconv"):
        scan(tmp_path / "wide.txt")
    (tmp_path / "a.jsonl").write_text("[1, 2]\n")
    with pytest.raises(DataError, match=r"a\.jsonl: holds no document \(1 not a JSON object\): it is one JSON array"):
        scan(tmp_path / "a.jsonl")


def test_tokens_are_no_text(tmp_path: Path) -> None:
    for ending in ("bin", "idx"):
        (tmp_path / f"a.{ending}").write_bytes(b"")
    with pytest.raises(DataError, match="holds tokens, not text"):
        scan(tmp_path / "a.bin")
