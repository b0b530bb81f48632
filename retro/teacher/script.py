"""Replies from a file, or from a Python function: for tests, and for people without a model."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NotRequired

from typing_extensions import TypedDict

from retro.common.errors import ConfigError, DataError, RetroError, short_reason
from retro.common.json_files import json_items, read_text, wrong_type
from retro.teacher.config import TeacherConfig
from retro.teacher.request import Reply, TeacherRequest, sha256_of

Script = Callable[[TeacherRequest], str]


class _Line(TypedDict):
    reply: str
    messages: NotRequired[list[dict[str, str]]]
    sha256: NotRequired[str]
    pattern: NotRequired[str]


class ScriptBackend:
    """Replies with what a script says, one request after the other."""

    model = "script"
    at_once = 1

    def __init__(self, script: Script, identity: str) -> None:
        """Set up.

        Args:
            script: Gives the text of a reply.
            identity: Names what it says: replies of an earlier script are not taken for its own.
        """
        self._script = script
        self.identity: Mapping[str, Any] = {"script": identity}
        self._submitted = 0
        self._done: list[tuple[int, Reply | RetroError]] = []

    def submit(self, request: TeacherRequest) -> int:
        """Reply at once.

        Raises:
            RetroError: As the script says.
        """
        self._submitted += 1
        self._done.append((self._submitted, Reply(text=self._script(request))))
        return self._submitted

    def wait(self) -> list[tuple[int, Reply | RetroError]]:
        """What was submitted since."""
        done, self._done = self._done, []
        return done

    def close(self) -> None:
        """Nothing is held."""


def open_script(config: TeacherConfig) -> ScriptBackend:
    """The script that a config names.

    Raises:
        ConfigError: There is no such function.
        DataError: The file cannot be read, or has a line that is none.
    """
    if config.replies is not None:
        text = read_text(config.replies, "file of replies")
        return ScriptBackend(_Replies(config.replies, text).reply, sha256_of(text))
    return _open_function(config.function)


def _open_function(name: str) -> ScriptBackend:
    module, _, attribute = name.partition(":")
    try:
        loaded: Any = importlib.import_module(module)
        function = getattr(loaded, attribute)
        source = inspect.getsource(loaded)
    except (ImportError, AttributeError, OSError, TypeError) as error:
        need = f"needs a function that can be imported, as my_package.my_module:reply ({short_reason(error)})"
        raise ConfigError("teacher.function", name, need) from None

    def reply(request: TeacherRequest) -> str:
        text = function(request)
        if not isinstance(text, str):
            raise ConfigError("teacher.function", name, f"needs to return a text, it returned {text!r:.80}")
        return text

    return ScriptBackend(reply, sha256_of([name, source]))


class _Replies:
    """A file of replies: those to whole conversations first, then patterns, in the order of the file."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._known: dict[str, str] = {}
        self._patterns: list[tuple[re.Pattern[str], str]] = []
        for item in json_items(path, text):
            remedy = "A line has `reply`, and one of `messages`, `sha256` or `pattern`"
            ways = [name for name in ("messages", "sha256", "pattern") if name in item.value]
            problem = wrong_type(item.value, _Line) or (f"has {len(ways)} ways to match" if len(ways) != 1 else "")
            if problem:
                raise DataError(path, f"{item.place} {problem}", remedy)
            self._add(ways[0], item.value, f"{item.place} has")

    def _add(self, way: str, line: dict[str, Any], place: str) -> None:
        if way == "pattern":
            try:
                self._patterns.append((re.compile(line["pattern"], re.DOTALL), line["reply"]))
            except re.error as error:
                problem = f"{place} the pattern {line['pattern']!r:.80}, which is not a regular expression ({error})"
                raise DataError(self._path, problem, "Fix it") from None
            return
        key = sha256_of(line["messages"]) if way == "messages" else line["sha256"]
        self._known.setdefault(key, line["reply"])

    def reply(self, request: TeacherRequest) -> str:
        """What the file says.

        Raises:
            DataError: Nothing.
        """
        key = sha256_of([dict(one) for one in request.messages])
        if key in self._known:
            return self._known[key]
        text = "\n".join(one["content"] for one in request.messages)
        found = next((reply for pattern, reply in self._patterns if pattern.search(text)), None)
        if found is None:
            problem = f"has no reply to {request.beginning!r} (sha256 {key})"
            raise DataError(self._path, problem, "Add a line with `messages`, `sha256` or a `pattern` that is in it")
        return found
