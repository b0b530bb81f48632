"""Requests and teachers for the tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from retro.teacher.config import TeacherConfig
from retro.teacher.request import TeacherRequest
from retro.teacher.script import ScriptBackend
from retro.teacher.teacher import Teacher


def asked(text: str, **more: Any) -> TeacherRequest:
    """A request with one message."""
    return TeacherRequest(messages=({"role": "user", "content": text},), **more)


def numbered(count: int, **more: Any) -> list[TeacherRequest]:
    """Requests that differ: `question 0`, `question 1`, …"""
    return [asked(f"question {number}", **more) for number in range(count)]


def scripted(
    folder: Path, script: Callable[[TeacherRequest], str], *, identity: str = "test", **settings: Any
) -> Teacher:
    """A teacher that says what a function says."""
    config = TeacherConfig(kind="script", function="tests.teacher.asking:echo", **settings)
    return Teacher(ScriptBackend(script, identity), config, folder)


def echo(request: TeacherRequest) -> str:
    """What was said, and which sample it is."""
    return f"{request.messages[-1]['content']} / {request.seed}"


def nothing(request: TeacherRequest) -> None:
    """No text: a mistake."""
