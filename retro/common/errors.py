"""The errors a user can cause. Each says what was found, what was needed, and what to do.

Only the command line catches these; it prints one line and exits with code 2. A wrong argument handed from one
function to another is a programming mistake and stays a ValueError.
"""

from __future__ import annotations

from pathlib import Path


class RetroError(Exception):
    """The root of everything a user can fix."""


class ConfigError(RetroError):
    """A setting has a value that cannot work."""

    def __init__(self, setting: str, value: object, need: str) -> None:
        super().__init__(f"{on_one_line(setting)} = {value!r}: {need}")
        self.setting = setting
        self.value = value
        self.need = need


class ArtifactError(RetroError):
    """A file that a stage wrote is missing, cut short, damaged, or was made under another config."""

    def __init__(self, path: Path, problem: str, remedy: str) -> None:
        super().__init__(f"{on_one_line(str(path))}: {problem}{'' if problem.endswith('?') else '.'} {remedy}")
        self.path = path
        self.problem = problem


class DataError(RetroError):
    """A file that the user brought cannot be used as it is."""

    def __init__(self, path: Path | str, problem: str, remedy: str) -> None:
        super().__init__(f"{on_one_line(str(path))}: {problem}{'' if problem.endswith('?') else '.'} {remedy}")
        self.path, self.problem = path, problem


class TrainingError(RetroError):
    """Training cannot continue: the loss is not a number, or the checkpoint belongs to another model."""


class DependencyError(RetroError):
    """An optional package is needed for what was asked, and is missing or broken."""

    def __init__(self, package: str, problem: str, remedy: str) -> None:
        super().__init__(f"{package}: {problem}. {remedy}")
        self.package = package


def on_one_line(name: str) -> str:
    """A name with line breaks and other characters that cannot be seen written as Python writes them."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in name)


def short_reason(error: object) -> str:
    """What another library says of its failure, on one line of 200 characters at most."""
    return " ".join(str(error).split())[:200]


def require(owner: object, field: str, ok: bool, need: str) -> None:
    """Raise ConfigError for `owner.field` unless `ok`.

    The value in the message is read from the field itself, so the two cannot disagree.
    """
    if not ok:
        raise ConfigError(f"{type(owner).__name__}.{field}", getattr(owner, field), f"needs {need}")
