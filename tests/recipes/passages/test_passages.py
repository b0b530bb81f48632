"""Files of passages, read on demand."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from retro.common.errors import ArtifactError, DataError
from retro.recipes.passages import passages as table
from retro.recipes.passages.layouts import Passage
from retro.recipes.passages.passages import FOLDER, Passages
from tests.recipes.passages.world import made_passages, write_jsonl, write_tsv


@pytest.mark.parametrize("ending", [".tsv", ".jsonl", ".tsv.gz", ".jsonl.gz"])
def test_passages_are_those_that_were_written(ending: str, tmp_path: Path) -> None:
    made = made_passages()
    write = write_tsv if ".tsv" in ending else write_jsonl
    plain = write(tmp_path / f"p{ending.removesuffix('.gz')}", made)
    path = tmp_path / f"p{ending}"
    if ending.endswith(".gz"):
        path.write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    found = Passages.open(path, tmp_path / "store")
    assert len(found) == 30
    assert found.at(range(30)) == made
    assert found.at([7, 3, 4, 5, 29, 0, 0]) == [made[row] for row in (7, 3, 4, 5, 29, 0, 0)]
    assert found["117"] == made[17]
    assert found.rows_of(["129", "none", "100", ""]).tolist() == [29, -1, 0, -1]
    assert found.without_title == sum(not one.title for one in made) == 7
    with pytest.raises(KeyError):
        found["none"]


def test_a_table_is_quoted_as_the_csv_module_writes_it(tmp_path: Path) -> None:
    text = 'id\ttext\ttitle\n1\t"Say ""hi"", twice"\tGreeting\n\n2\tno " quote at its beginning\t\r\n  \n3\té\t ü \n'
    (tmp_path / "p.tsv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    found = Passages.open(tmp_path / "p.tsv", tmp_path / "store")
    wanted = [Passage("1", "Greeting", 'Say "hi", twice'), Passage("2", "", 'no " quote at its beginning')]
    assert found.at([0, 1, 2]) == [*wanted, Passage("3", " ü ", "é")]


def test_columns_may_stand_in_any_order_and_a_table_may_have_no_titles(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("title\tid\turl\ttext\nT\t1\thttp://x\tx\n")
    assert Passages.open(tmp_path / "a.tsv", tmp_path / "a")["1"] == Passage("1", "T", "x")
    (tmp_path / "b.tsv").write_text("id\ttext\n1\tx")
    found = Passages.open(tmp_path / "b.tsv", tmp_path / "b")
    assert (found["1"], found.without_title) == (Passage("1", "", "x"), 1)


def test_json_lines_may_have_a_section_other_fields_and_ids_that_are_numbers(tmp_path: Path) -> None:
    items = [
        {"id": 7, "title": "Rivers", "section": "Floods", "text": "x", "url": "u"},
        {"id": "b", "title": None, "section": "", "text": "y"},
        {"id": "c", "section": "Only", "text": "z"},
    ]
    text = "\n\n".join(json.dumps(item) for item in items)
    (tmp_path / "p.jsonl").write_bytes(b"\xef\xbb\xbf" + text.encode())
    found = Passages.open(tmp_path / "p.jsonl", tmp_path / "store")
    wanted = [Passage("7", "Rivers: Floods", "x"), Passage("b", "", "y"), Passage("c", "Only", "z")]
    assert found.at(range(3)) == wanted


BAD_TABLES = {
    "id\ttext\ttitle\n1\tx\tT\n2\tx\n": r"line 3 has 2 columns, needed are 3 \(id, text, title\)",
    "id\ttext\ttitle\n1\tx\tT\tU\n": "line 2 has 4 columns, needed are 3",
    "id\ttext\ttitle\n1\t\tT\n": r"line 2 \(passage '1'\) has no text",
    "id\ttext\ttitle\n1\t  \tT\n": r"line 2 \(passage '1'\) has no text",
    "id\ttext\ttitle\n\tx\tT\n": "line 2 has '' as its id",
    "id\ttext\ttitle\n1\tx\tT\n\n2\ty\tT\n1\tz\tT\n": "line 5 has the id '1' of line 2",
    'id\ttext\ttitle\n1\t"x\ny"\tT\n': r"line 2 is not a line of a table \(unexpected end of data\)",
    "id\ttitle\n1\tx\n": "line 1 names no column 'text'; it has: id, title",
    "1\tx\tT\n": "line 1 names no column 'id'",
    "id\ttext\ttext\n": "line 1 names a column twice: id, text, text",
    "id\ttext\ttitle\n": "holds no passage",
    "": "holds no passage",
    "\n\n": "line 1 names no column 'id'",
}


@pytest.mark.parametrize("text", BAD_TABLES)
def test_a_table_that_cannot_be_used_says_where_and_why(text: str, tmp_path: Path) -> None:
    (tmp_path / "p.tsv").write_text(text)
    with pytest.raises(DataError, match=rf"p\.tsv: {BAD_TABLES[text]}"):
        Passages.open(tmp_path / "p.tsv", tmp_path / "store")
    assert not (tmp_path / "store" / FOLDER).exists()


GOOD = b'{"id": "a", "text": "x"}\n'
BAD_LINES = {
    b"{": "line 2 is broken JSON.* at column 2",
    b"[1]": "line 2 is a list, needed is an object with id, title and text",
    b'{"id": "b"}': "line 2 has no 'text'; it has: id",
    b'{"text": "x"}': "line 2 has no 'id'",
    b'{"id": true, "text": "x"}': "line 2 has 'True' as its id",
    b'{"id": 1.5, "text": "x"}': "line 2 has '1.5' as its id",
    b'{"id": "b", "text": ["x"]}': "line 2 has no text as its text",
    b'{"id": "b", "text": "x", "title": 3}': "line 2 has '3' as its title, needed is a text",
    b'{"id": "b", "text": "\\ud800"}': "line 2 holds half a character",
    b'{"id": "b", "text": "\xff"}': r"line 2 is not UTF-8 \(byte 0xff at offset 21\)",
    b'{"id": "a", "text": "x"}': "line 2 has the id 'a' of line 1",
}


@pytest.mark.parametrize("line", BAD_LINES)
def test_json_lines_that_cannot_be_used_say_where_and_why(line: bytes, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_bytes(GOOD + line)
    with pytest.raises(DataError, match=rf"p\.jsonl: {BAD_LINES[line]}"):
        Passages.open(tmp_path / "p.jsonl", tmp_path / "store")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.tsv: no such file of passages"):
        Passages.open(tmp_path / "none.tsv", tmp_path / "store")
    (tmp_path / "p.csv").write_text("x")
    with pytest.raises(DataError, match=r"p\.csv: its ending '\.csv' does not tell how it is laid out"):
        Passages.open(tmp_path / "p.csv", tmp_path / "store")
    (tmp_path / "p.tsv.gz").write_bytes(gzip.compress(b"id\ttext\n1\tx\n")[:-9])
    with pytest.raises(DataError, match=r"p\.tsv\.gz: is cut short or damaged"):
        Passages.open(tmp_path / "p.tsv.gz", tmp_path / "store")


def test_ids_with_equal_hashes_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "_key", lambda identifier: len(identifier))
    made = [Passage(name, "", f"text of {name}") for name in ("a", "bb", "c", "dd", "e")]
    found = Passages.open(write_tsv(tmp_path / "p.tsv", made), tmp_path / "store")
    assert found.rows_of(["e", "dd", "a", "zz", "xxx"]).tolist() == [4, 3, 0, -1, -1]
    assert found["c"] == made[2]
    with pytest.raises(DataError, match="line 6 has the id 'a' of line 2"):
        Passages.open(write_tsv(tmp_path / "q.tsv", [*made[:4], made[0]]), tmp_path / "store2")


def test_the_table_is_made_once_and_again_when_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tsv(tmp_path / "p.tsv", made_passages())
    first = Passages.open(path, tmp_path / "store")
    moved = Path(shutil.copy(path, tmp_path / "q.tsv"))
    with monkeypatch.context() as patch:
        patch.setattr(table, "_build", lambda *_: pytest.fail("made again"))
        assert Passages.open(path, tmp_path / "store").fingerprint == first.fingerprint
        assert Passages.open(moved, tmp_path / "store").at([3]) == first.at([3])
    write_tsv(path, made_passages(31))
    again = Passages.open(path, tmp_path / "store")
    assert len(again) == 31
    assert again.fingerprint != first.fingerprint


def test_a_file_that_changes_under_a_reader_is_named(tmp_path: Path) -> None:
    path = write_tsv(tmp_path / "p.tsv", made_passages())
    found = Passages.open(path, tmp_path / "store")
    path.write_text("id\ttext\ttitle\n")
    with pytest.raises(DataError, match=r"p\.tsv: has been changed since it was opened"):
        found.at([29])


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    path = write_tsv(tmp_path / "p.tsv", made_passages())
    Passages.open(path, tmp_path / "store")
    damaged = tmp_path / "store" / FOLDER / "rows.npy"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"rows\.npy: has SHA-256 .*Delete .*it is made again"):
        Passages.open(path, tmp_path / "store")


def test_a_kill_while_the_table_is_made_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tsv(tmp_path / "p.tsv", made_passages())

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            Passages.open(path, tmp_path / "store")
    assert not (tmp_path / "store" / FOLDER).exists()
    assert len(Passages.open(path, tmp_path / "store")) == 30
