"""JSON: a value or one error, whatever the bytes are; and types for what a value must hold."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import TypedDict

from retro.common.errors import ArtifactError, DataError
from retro.common.files import read_json, sha256_file
from retro.common.json_files import MAX_JSON_DEPTH, Count, JsonError, half_character, parse_json, wrong_type


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "broken JSON: Expecting value at line 1, column 1"),
        ('{"a": 1,\n"b" 2}', "broken JSON: .* at line 2, column 5"),
        (b'{"a": "\xff"}', "byte 0xff is not UTF-8"),
        ("[" * 100_000, "nests too deep"),
        ('{"a":' * 100_000, "nests too deep"),
        ("[" * (MAX_JSON_DEPTH + 1) + "]" * (MAX_JSON_DEPTH + 1), "nests too deep"),
        ("[1,\n " + "9" * 5000 + "]", "a number of too many digits at line 2, column 2"),
        ("-" + "9" * 5000, "a number of too many digits at line 1, column 2"),
    ],
)
def test_what_is_no_value_is_one_error(text: str | bytes, words: str) -> None:
    with pytest.raises(JsonError, match=words):
        parse_json(text)


def test_depth_is_that_of_lists_and_objects() -> None:
    deepest = "[" * MAX_JSON_DEPTH + "1" + "]" * MAX_JSON_DEPTH
    assert parse_json(deepest) == eval(deepest)
    assert parse_json('"' + "[" * 1000 + '"') == "[" * 1000
    assert len(parse_json("[" + "[]," * 1000 + "[]]")) == 1001


def test_a_key_twice_is_an_error_where_that_is_asked_for() -> None:
    assert parse_json('{"a": 1, "a": 2}') == {"a": 2}
    with pytest.raises(JsonError, match="the key 'a' twice in one object"):
        parse_json('[{"b": {"a": 1, "a": 2}}]', keys_once=True)


def test_half_a_character_is_found_in_texts_and_keys() -> None:
    for text in ('{"a": ["\\ud800"]}', '{"\\uDFFF": 1}'):
        assert half_character(text, parse_json(text)) in ("\ud800", "\udfff")
    whole = '["\\ud83d\\ude00", "\\\\ud800"]'
    assert half_character(whole, parse_json(whole)) is None


class Example(TypedDict):
    """A description."""

    name: str
    sizes: list[Count]


@pytest.mark.parametrize(
    ("value", "expect", "words"),
    [
        ([], dict[str, Any], "holds a list of 0, needed is: an object"),
        ({"name": "a"}, Example, "has no sizes"),
        ({"name": 5, "sizes": []}, Example, "holds 5 as name, needed is: a valid string"),
        ({"name": "a", "sizes": [1, -1]}, Example, "holds -1 as sizes.1, needed is: greater than or equal to 0"),
        ({"name": "a", "sizes": [1 << 63]}, Example, "as sizes.0, needed is: less than"),
        ({"name": "a", "sizes": [10**4000]}, Example, "holds a number of many digits as sizes.0"),
        ({"name": "a", "sizes": [True]}, Example, "holds True as sizes.0, needed is: a valid integer"),
        ({"name": "a", "sizes": ["1"]}, Example, "holds '1' as sizes.0, needed is: a valid integer"),
        ({"name": "a", "sizes": [1.0]}, Example, "holds 1.0 as sizes.0, needed is: a valid integer"),
        ({"name": "a", "sizes": "11"}, Example, "holds '11' as sizes, needed is: a valid list"),
        ({"name": "a", "sizes": None}, Example, "holds None as sizes, needed is: a valid list"),
    ],
)
def test_a_value_of_another_type_is_named_with_its_place(value: object, expect: object, words: str) -> None:
    assert words in (wrong_type(value, expect) or "")


def test_right_values_are_right_and_other_keys_may_stand_beside() -> None:
    assert wrong_type({"name": "a", "sizes": [0, 2**63 - 1], "more": math.nan}, Example) is None


def refused(path: Path, expect: Any = dict[str, Any], **options: Any) -> str:
    with pytest.raises(ArtifactError) as caught:
        read_json(path, "Make it again", expect, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "is not valid JSON (broken JSON: "),
        (b'{"a": "\xff"}', "can't decode byte 0xff"),
        (b'{"a": 1, "a": 2}', "the key 'a' twice"),
        (b'{"a": "\\ud800"}', "holds half a character"),
        (b"[]", "holds a list of 0, needed is: an object"),
        (b"null", "holds None, needed is: an object"),
        (b"", "is not valid JSON"),
        (b"{}" + b" " * 20, "has more than 20 bytes"),
    ],
)
def test_a_file_that_does_not_hold_what_it_should_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    assert words in refused(tmp_path / "a.json", limit=20)
    assert refused(tmp_path / "a.json", limit=20).endswith("Make it again")


def test_a_path_that_is_no_file_is_named_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    assert "is missing" in refused(tmp_path / "absent")
    assert "it is a folder, not a file" in refused(tmp_path)
    assert "it is a named pipe, not a file" in refused(tmp_path / "pipe")
    assert "it is a device, not a file" in refused(Path("/dev/zero"))
    assert "Too many levels of symbolic links" in refused(tmp_path / "loop")
    with pytest.raises(DataError, match="is missing"):
        read_json(tmp_path / "absent", "", error=DataError)
    with pytest.raises(OSError, match="named pipe"):
        sha256_file(tmp_path / "pipe")


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": [1]}')
    assert read_json(tmp_path / "a.json", "") == {"a": [1]}
