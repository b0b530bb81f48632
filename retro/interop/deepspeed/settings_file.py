"""A file of settings that a user brought: values of any spelling, each with the line that it stands on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retro.common.errors import DataError
from retro.common.json_files import load_json, read_text
from retro.common.yaml_files import lines_of_keys, read_yaml

AUTO = "auto"
"""A value that the caller of DeepSpeed fills in, HuggingFace's Trainer from its arguments."""
_TRUTHS = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}


@dataclass(frozen=True)
class SettingsFile:
    """The settings of a file, by dotted names such as `optimizer.params.lr`."""

    path: Path
    data: Mapping[str, Any]
    lines: Mapping[str, int]
    """Where each setting stands, counted from 1; empty for settings without a file."""

    @classmethod
    def read(cls, path: Path, what: str) -> SettingsFile:
        """Read JSON, or YAML where the name ends so.

        Args:
            path: The file.
            what: What it should be, for the error: `DeepSpeed file`.

        Raises:
            DataError: It is missing, broken, no object, or has a key twice in one object.
        """
        if path.suffix in (".yaml", ".yml"):
            data: Any = read_yaml(path)
            return cls(path, data, lines_of_keys(read_text(path, what))[0])
        text = read_text(path, what)
        lines, twice = lines_of_keys(text)
        for name, line in twice:
            problem = f"line {line}: the key {name} occurs twice in one object"
            raise DataError(path, problem, "Leave one of them: DeepSpeed refuses such a file")
        data = load_json(path, text, keys_once=True)
        if not isinstance(data, dict):
            raise DataError(path, f"holds a {type(data).__name__}, needed is an object", f"Give a {what}")
        return cls(path, data, lines)

    def at(self, name: str) -> Any:
        """The value of a setting, of an item of a list by its number; None where it is absent or null.

        Raises:
            DataError: What should be a section is a value.
        """
        value: Any = self.data
        parts = name.split(".")
        for number, part in enumerate(parts):
            if isinstance(value, list) and part.isdecimal():
                value = value[int(part)] if int(part) < len(value) else None
            elif isinstance(value, Mapping):
                value = value.get(part)
            elif value is None:
                return None
            else:
                raise self.wrong(".".join(parts[:number]), value, "an object")
        return value

    def section(self, name: str) -> Mapping[str, Any] | None:
        """A section; None where it is absent or null.

        Raises:
            DataError: It is a value.
        """
        value = self.at(name)
        if value is not None and not isinstance(value, Mapping):
            raise self.wrong(name, value, "an object")
        return value

    def number(self, name: str) -> float | None:
        """A number, also one in quotes as "2e-5"; None where it is absent, null or "auto".

        Raises:
            DataError: It is something else.
        """
        value = self.at(name)
        if value is None or value == AUTO:
            return None
        try:
            found = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            found = math.nan
        if not math.isfinite(found):
            raise self.wrong(name, value, 'a number or "auto"')
        return found

    def whole(self, name: str) -> int | None:
        """A whole number, also as 8.0 or "8"; None where it is absent, null or "auto".

        Raises:
            DataError: It is something else.
        """
        found = self.number(name)
        if found is not None and found != int(found):
            raise self.wrong(name, self.at(name), 'a whole number or "auto"')
        return None if found is None else int(found)

    def truth(self, name: str) -> bool | None:
        """True or false, also in quotes; None where it is absent, null or "auto".

        Raises:
            DataError: It is something else.
        """
        value = self.at(name)
        if value is None or value == AUTO or isinstance(value, bool):
            return None if value == AUTO else value
        found = _TRUTHS.get(str(value).lower())
        if found is None:
            raise self.wrong(name, value, 'true, false or "auto"')
        return found

    def text(self, name: str) -> str | None:
        """A text; None where it is absent or null.

        Raises:
            DataError: It is something else.
        """
        value = self.at(name)
        if value is not None and not isinstance(value, str):
            raise self.wrong(name, value, "a text")
        return value

    def beside(self, name: str, what: str) -> SettingsFile | None:
        """The settings of a section that may also be the path of a file, relative to this one; None where it is absent.

        Args:
            name: The section.
            what: What its file should be, for the error.

        Raises:
            DataError: The file is missing or broken.
        """
        inner = self.at(name)
        if not inner:
            return None
        if isinstance(inner, Mapping):
            place = f"{name}."
            lines = {one.removeprefix(place): line for one, line in self.lines.items() if one.startswith(place)}
            return SettingsFile(self.path, inner, lines)
        near = self.path.parent / str(inner)
        return SettingsFile.read(near if near.exists() else Path(str(inner)), what)

    def wrong(self, name: str, value: object, need: str) -> DataError:
        """The error for a value that cannot be read, with its line and key."""
        line = self.lines.get(name)
        place = f"line {line}: " if line else ""
        return DataError(self.path, f"{place}{name} = {str(value)[:80]!r}, needed is {need}", "Correct that value")

    def every(self) -> Iterator[tuple[str, Any]]:
        """Every setting with its value, sections and list items too."""
        yield from _walk("", self.data)


def _walk(place: str, value: Any) -> Iterator[tuple[str, Any]]:
    inner = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for name, one in inner:
        here = f"{place}.{name}" if place else str(name)
        yield here, one
        yield from _walk(here, one)
