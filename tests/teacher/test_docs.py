"""What docs/teacher.md shows can be done as it is shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from retro.teacher.config import TeacherConfig

PAGE = (Path(__file__).parents[2] / "docs" / "teacher.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    return [block for of, block in found if of == language]


def test_every_section_of_settings_is_one() -> None:
    sections = [
        part for block in blocks("yaml") for part in re.split(r"^(?=teacher:)", block, flags=re.MULTILINE) if part
    ]
    found = [yaml.safe_load(section) for section in sections]
    configs = [TeacherConfig(**(one.get("teacher") or one["recipe"]["hedging"]["teacher"])) for one in found]
    assert [config.kind for config in configs] == ["script", "openai", "engine", "script", "script"]


def test_the_lines_of_python_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (lines,) = [block for block in blocks("") if "sha256" in block]
    Path("replies.jsonl").write_text(lines, encoding="utf-8")
    (code,) = blocks("python")
    exec(compile(code, "docs/teacher.md", "exec"), {})
    plan, *replies = capsys.readouterr().out.splitlines()
    assert "to_send=3" in plan
    assert replies == ["the whole conversation is this one stop False"] * 3


def test_no_line_of_the_page_is_too_wide() -> None:
    assert [line for line in PAGE.splitlines() if len(line) > 120] == []
