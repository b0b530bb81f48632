"""The messages that docs/troubleshooting.md quotes are still said."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
ROWS = [line.split(" | ")[0].removeprefix("| ") for line in PAGE.splitlines() if line.startswith("| `")]
OF_PYTHON = {"No module named 'retro.cli'"}
QUOTED = sorted({words for row in ROWS for words in re.findall(r"`([^`]+)`", row)} - OF_PYTHON)


@cache
def texts() -> str:
    """Every text in the sources; the values in an f-string are left out."""
    found = []
    for path in sorted((ROOT / "retro").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [str(one.value) if isinstance(one, ast.Constant) else "\0" for one in node.values]
                found.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def test_there_are_messages_to_look_for() -> None:
    assert len(QUOTED) >= 30


@pytest.mark.parametrize("words", QUOTED)
def test_a_quoted_message_is_said_somewhere(words: str) -> None:
    missing = [part for part in words.split("…") if part.strip() and part.strip() not in texts()]
    assert missing == []
