"""Reading files of settings: what is broken is named with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from retro.common.errors import DataError
from retro.common.yaml_files import lines_of_keys
from retro.interop.deepspeed.settings_file import SettingsFile


def read(path: Path, text: str) -> SettingsFile:
    path.write_text(text, encoding="utf-8")
    return SettingsFile.read(path, "DeepSpeed file")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1,\n "b": }', "broken JSON at line 2, column 7"),
        ('{"a": {"lr": 1,\n "x": 2,\n "lr": 3}}', "line 3: the key a.lr occurs twice in one object"),
        ("[1]", "holds a list, needed is an object"),
        ("", "broken JSON at line 1"),
    ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path / "ds.json", text)
    assert str(caught.value).startswith(f"{tmp_path / 'ds.json'}: ")
    assert words in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such DeepSpeed file"):
        SettingsFile.read(tmp_path / "absent.json", "DeepSpeed file")


def test_every_key_has_its_line_whatever_the_indentation() -> None:
    text = '{\n\t"a": {\n\t\t"b": [1,\n 2],\n\t"a.b": 3}\n}'
    lines, twice = lines_of_keys(text)
    assert lines["a"] == 2
    assert lines["a.b.1"] == 4
    assert twice == []
    assert lines_of_keys("{") == ({}, [])
    assert lines_of_keys("{" + " " * (1 << 20) + "}") == ({}, [])


def test_yaml_is_read_where_the_name_says_so(tmp_path: Path) -> None:
    found = read(tmp_path / "args.yaml", "bf16: true\nlearning_rate: 2e-5\n")
    assert found.number("learning_rate") == 2e-5
    assert found.lines["learning_rate"] == 2


def test_absent_values_and_items_are_none(tmp_path: Path) -> None:
    found = read(tmp_path / "ds.json", '{"a": [1], "b": null, "c": "no", "d": 0}')
    assert [found.number(name) for name in ("a.0", "a.1", "b", "b.c", "x.y")] == [1, None, None, None, None]
    assert [found.truth(name) for name in ("c", "d", "b")] == [False, False, None]
