"""YAML: plain values or one error, whatever the bytes are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from retro.common.errors import DataError
from retro.common.yaml_files import MAX_YAML_DEPTH, parse_yaml, read_yaml


def laughs(of: str, levels: int, times: int) -> str:
    """A list of `times` times itself, `levels` deep."""
    lines = [f"a0: &a0 [{of}]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * times)}]" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 2001-01-01", {"a": "2001-01-01"}),
        ("a: 2001-99-99", {"a": "2001-99-99"}),
        ("2001-01-01: x\non: y\n1: z\n~: w", {"2001-01-01": "x", "on": "y", "1": "z", "~": "w"}),
        ("a: [1, 1.5, true, null, =, 0x1F]", {"a": [1, 1.5, True, None, "=", 31]}),
        ("a: &x {b: 1}\nc: {<<: *x, d: 2}", {"a": {"b": 1}, "c": {"b": 1, "d": 2}}),
        ("", None),
    ],
)
def test_values_are_plain_and_names_are_texts_as_typed(text: str, value: object) -> None:
    assert parse_yaml(text) == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: !!binary aGk=", "could not determine a constructor"),
        ("a: !!set {x}", "could not determine a constructor"),
        ("a: !!python/object/apply:os.system [x]", "could not determine a constructor"),
        ("a: !!bool maybe", "'maybe' is not what it looks like or is said to be"),
        ('a: !!int ""', "'' is not what it looks like"),
        ("a: " + "9" * 5000, "is not what it looks like"),
        ("a: 0x" + "f" * 5000, "is too large"),
        ("a: " + "1:" * 300 + "1.5", "is not what it looks like"),
        ("a: &x [*x]", "refers to itself"),
        ("a: &x {b: *x}", "refers to itself"),
        ("? [1, 2]\n: 3", "found a sequence, needed is a name"),
        ("? {a: 1}\n: 3", "found a mapping, needed is a name"),
        ("a: 1\na: 2", "'a' occurs twice"),
        ('a: "\\ud800"', "half a character"),
        ('a: "\\UFFFFFFFF"', "too large|not in range"),
        ("%YAML " + "9" * 5000 + ".1\n---\na: 1", "digits"),
        ("!!map [a]", "a mapping is needed"),
        ("[" * 10_000, f"more than {MAX_YAML_DEPTH} deep"),
        ("? " * 1_000, f"more than {MAX_YAML_DEPTH} deep"),
        ("- " * 1_000, f"more than {MAX_YAML_DEPTH} deep"),
        (laughs("x", 60, 1), f"more than {MAX_YAML_DEPTH} deep"),
        (laughs("x", 30, 10), "more values, aliases written out"),
        (laughs("x" * 100_000, 3, 10), "more values, aliases written out"),
        ("a: &x {b: 1, c: 2}\n" + "c: {<<: [" + "*x, " * 20_000 + "*x]}", "more values, aliases written out"),
    ],
)
def test_what_is_no_setting_is_one_error(text: str, words: str) -> None:
    with pytest.raises(yaml.YAMLError, match=words):
        parse_yaml(text)


def test_depth_is_counted_and_not_guessed() -> None:
    value = parse_yaml("[" * MAX_YAML_DEPTH + "]" * MAX_YAML_DEPTH)
    for _ in range(MAX_YAML_DEPTH - 1):
        (value,) = value
    assert value == []


def test_an_alias_may_be_used_as_often_as_its_size_allows() -> None:
    assert parse_yaml(laughs("x", 4, 9))["a3"][8][8][8] == ["x"]


def refused(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_yaml(path)
    return str(caught.value)


def test_a_path_that_is_no_file_is_named_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    assert "no such config file" in refused(tmp_path / "absent.yaml")
    assert "it is a folder, not a file" in refused(tmp_path)
    assert "it is a named pipe, not a file" in refused(tmp_path / "pipe.yaml")
    assert "it is a device, not a file" in refused(Path("/dev/zero"))
    assert "Too many levels of symbolic links" in refused(tmp_path / "loop.yaml")
    assert "File name too long" in refused(tmp_path / ("x" * 300))
    assert "embedded null" in refused(tmp_path / "a\0b")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: \xff", "can't decode byte 0xff"),
        (b"\xff\xfea\x00", "can't decode byte 0xff"),
        (b"#" * (1 << 20) + b"\n", "has more than 1,048,576 bytes"),
        (b"a: [1", "is not YAML"),
        (b"- 1", "holds a list"),
        (b"\x00", "special characters are not allowed"),
    ],
)
def test_content_that_is_no_mapping_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "run.yaml").write_bytes(content)
    assert words in refused(tmp_path / "run.yaml")


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_yaml(tmp_path / "run.yaml") == {"a": 1}
