"""Responses of a model to requests of the harness, kept in a file so that a call that was stopped goes on.

The harness keeps its own as pickles; these are JSON lines, the first of which says whose responses they are.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from retro.common.artifacts import fingerprint
from retro.common.errors import ConfigError
from retro.common.input_files import read_text
from retro.common.json_text import JsonError, parse_json

log = logging.getLogger(__name__)


class ResponseCache:
    """What was answered, by kind and arguments of the request. Greedy and scored requests only: draws differ."""

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        """Open, or begin.

        Args:
            path: The file.
            identity: Whose responses they are: model, what it reads, precision.

        Raises:
            ConfigError: The file holds another model's responses, or is none of ours.
        """
        self.path, self._whose = path, fingerprint(dict(identity))
        self._known: dict[str, Any] = {}
        if path.exists():
            self._read()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"model": self._whose}) + "\n", encoding="utf-8")
        log.info("%s: %d responses are known", path, len(self._known))

    def _read(self) -> None:
        text = read_text(self.path, "Give another file")
        # A kill leaves a last line that is cut short.
        whole = text[: text.rfind("\n") + 1]
        try:
            first, *lines = [parse_json(line) for line in whole.splitlines()] or [None]
            known = {str(line["key"]): line["response"] for line in lines}
            whose = first["model"] if isinstance(first, dict) else None
        except (JsonError, KeyError, TypeError) as error:
            need = f"needs a file that `retro lm-eval --use-cache` wrote, or one that is not there yet ({error})"
            raise ConfigError("--use-cache", str(self.path), need) from None
        if whose != self._whose:
            need = "needs a file of its own for each model, retrieval and precision: this one is of another"
            raise ConfigError("--use-cache", str(self.path), need)
        self._known = known
        if whole != text:
            with self.path.open("r+b") as file:
                file.truncate(len(whole.encode()))

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def __getitem__(self, key: str) -> Any:
        return self._known[key]

    def add(self, keys: Sequence[str], responses: Sequence[Any]) -> None:
        """Keep responses, on the disk when this returns."""
        with self.path.open("a", encoding="utf-8") as file:
            for key, response in zip(keys, responses, strict=True):
                self._known[key] = response
                file.write(json.dumps({"key": key, "response": response}) + "\n")
            file.flush()
            os.fsync(file.fileno())


def key_of(kind: str, arguments: Sequence[Any]) -> str:
    """The name of a request."""
    return fingerprint([kind, list(arguments)])
