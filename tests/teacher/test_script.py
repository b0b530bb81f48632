"""Replies from a file and from a function."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from retro.common.errors import ConfigError, DataError
from retro.teacher.config import TeacherConfig
from retro.teacher.request import TeacherRequest, sha256_of
from retro.teacher.teacher import open_teacher
from tests.teacher.asking import asked

SYSTEM = {"role": "system", "content": "Decompose."}
USER = {"role": "user", "content": "Who wrote it,\nand when?"}
OTHER = [{"role": "user", "content": "By its hash."}]


def written(folder: Path, *lines: dict[str, Any]) -> TeacherConfig:
    path = folder / "replies.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return TeacherConfig(kind="script", replies=path)


def said(config: TeacherConfig, folder: Path, request: TeacherRequest) -> str:
    with open_teacher(config, folder / "out") as teacher:
        (one,) = teacher.complete_all([request])
    return one.text


def test_a_conversation_is_found_whole_then_by_its_hash_then_by_the_first_pattern(tmp_path: Path) -> None:
    config = written(
        tmp_path,
        {"pattern": "wrote.*when", "reply": "by pattern"},
        {"pattern": ".", "reply": "by the last pattern"},
        {"messages": [SYSTEM, USER], "reply": "by messages"},
        {"sha256": sha256_of(OTHER), "reply": "by hash"},
    )
    assert said(config, tmp_path, TeacherRequest(messages=(SYSTEM, USER))) == "by messages"
    assert said(config, tmp_path, TeacherRequest(messages=(USER,))) == "by pattern"
    assert said(config, tmp_path, TeacherRequest(messages=tuple(OTHER))) == "by hash"
    assert said(config, tmp_path, asked("something else")) == "by the last pattern"


def test_a_request_that_nothing_matches_is_named_with_its_hash(tmp_path: Path) -> None:
    config = written(tmp_path, {"pattern": "^x", "reply": "r"})
    long = "What is " + "very " * 20
    with pytest.raises(DataError) as caught:
        said(config, tmp_path, asked(long))
    found = re.search(r"has no reply to '(.*)' \(sha256 (\w{64})\)\. Add a line with `messages`", str(caught.value))
    assert found is not None
    assert found[1] == long[:60] + "…"
    config = written(tmp_path, {"sha256": found[2], "reply": "now there is"})
    assert said(config, tmp_path, asked(long)) == "now there is"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"pattern": "a"}, r"line 1 \(item 0\) has no reply"),
        ({"reply": "a"}, r"line 1 \(item 0\) has 0 ways to match"),
        ({"reply": "a", "pattern": "a", "sha256": "a"}, r"line 1 \(item 0\) has 2 ways to match"),
        ({"reply": 3, "pattern": "a"}, r"line 1 \(item 0\) holds 3 as reply"),
        (
            {"reply": "a", "pattern": "(a"},
            r"line 1 \(item 0\) has the pattern '\(a', which is not a regular expression",
        ),
    ],
)
def test_a_line_that_is_none_is_named(line: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"replies\.jsonl: {words}"):
        open_teacher(written(tmp_path, line), tmp_path / "out")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing: no such file of replies"):
        open_teacher(TeacherConfig(kind="script", replies=tmp_path / "nothing"), tmp_path)


def test_a_script_that_was_changed_is_asked_again(tmp_path: Path) -> None:
    for text in ("old", "new"):
        assert said(written(tmp_path, {"pattern": "a", "reply": text}), tmp_path, asked("a")) == text


def test_a_function_is_given_the_request(tmp_path: Path) -> None:
    config = TeacherConfig(kind="script", function="tests.teacher.asking:echo")
    assert said(config, tmp_path, asked("a", temperature=1.0, seed=4)) == "a / 4"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no_such_module:f", "No module named 'no_such_module'"),
        ("tests.teacher.asking:no_such", "has no attribute 'no_such'"),
        ("tests.teacher.asking:nothing", "to return a text, it returned None"),
    ],
)
def test_a_function_that_is_none_is_named(name: str, words: str, tmp_path: Path) -> None:
    config = TeacherConfig(kind="script", function=name)
    with pytest.raises(ConfigError, match=rf"teacher\.function = '{name}': needs .*{words}"):
        said(config, tmp_path, asked("a"))
