from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path

import pytest

from retro.corpus.config import SourceConfig
from retro.corpus.diagnosis import Diagnosis, diagnose, likely_text_key
from retro.corpus.files import resolve
from retro.corpus.layouts import Reject, read_source

ROWS = b'{"id": "1", "content": "some words here"}\n{"id": "2", "content": "and more of them"}\n'


def told(path: Path, content: bytes, **settings: str) -> Diagnosis | None:
    path.write_bytes(content)
    source = resolve(SourceConfig(name="s", path=path, **settings), path)
    items = read_source(source, 1, lambda count: None)
    reasons = Counter(item.reason for item in items if isinstance(item, Reject))
    return diagnose(source, source.files[0], reasons)


@pytest.mark.parametrize(
    ("content", "problem", "remedy"),
    [
        (ROWS, "2 documents have no 'text'; the keys are id, content", "Set text_key: content for the source 's' in"),
        (b'{"text": null}\n', "in 1 documents 'text' is a NoneType; the keys are text", "Set text_key to the key of"),
        (b'{"text": ["a b"]}\n', "in 1 documents 'text' is a list; the keys are text", "Join what is in 'text' to one"),
        (b'{"d": {"text": "a b"}}\n', "1 documents have no 'text'; the keys are d", "The text seems to be in d.text"),
        (b'{"text": {"body": "a b"}}\n', "in 1 documents 'text' is a dict; ", "The text seems to be in text.body"),
        (b'[\n{"text": "a"}\n]\n', "it is one JSON array", "Write one object a line: jq -c '.[]' "),
        (b'[{"text": "a"}]', "it is one JSON array", "Write one object a line: jq -c '.[]' "),
        (b'{\n"text": "a"\n}\n', "its objects are spread over several lines", "Write one object a line: jq -c . "),
        (ROWS.replace(b"\n", b"\r"), "its lines end in CR alone, as on old", "Write line breaks: tr '\\r' '\\n' < "),
        (b"id,text\n1,a\n", "its lines are not JSON objects", "Set the source's kind: text"),
        (ROWS.decode().encode("utf-16"), "it is UTF-16, two bytes", "Convert it: iconv -f UTF-16 -t UTF-8 "),
        (ROWS.decode().encode("utf-16-be"), "it is UTF-16, two bytes", "Convert it: iconv -f UTF-16 -t UTF-8 "),
        (ROWS.decode().encode("utf-32"), "it is UTF-32, four bytes", "Convert it: iconv -f UTF-32 -t UTF-8 "),
        (gzip.compress(ROWS, mtime=0), "it is compressed with gzip, by its", "Give the text in it, or the ending"),
        (b'{"text": "caf\xe9"}\n', "it is not UTF-8", "Convert it, if it is Western text: iconv -f WINDOWS-1252 "),
    ],
)
def test_the_likeliest_mistake_is_named_with_what_to_do(
    tmp_path: Path, content: bytes, problem: str, remedy: str
) -> None:
    found = told(tmp_path / "f.jsonl", content)
    assert found is not None
    assert found.problem.startswith(problem)
    assert found.remedy.startswith(remedy)


def test_a_command_to_convert_a_file_quotes_its_name_and_writes_another(tmp_path: Path) -> None:
    found = told(tmp_path / "a b.jsonl", b"[]")
    assert found is not None
    assert found.remedy.endswith(f"jq -c '.[]' '{tmp_path}/a b.jsonl' > 'a b'.lines.jsonl")


def test_nothing_is_said_of_what_nothing_is_known_of(tmp_path: Path) -> None:
    assert told(tmp_path / "f.jsonl", b'{"text": ""}\n') is None
    assert told(tmp_path / "f.txt", b" ") is None


def test_a_usual_name_goes_before_a_longer_text() -> None:
    rows = [{"html": "a much longer text than that", "Body": "a b", "text": "x y", "id": "no-words"}]
    assert likely_text_key(rows, "text") == "Body"
    assert likely_text_key([{"html": "a b c", "note": "a b"}], "text") == "html"
    assert likely_text_key([{"id": "1"}], "text") == ""
