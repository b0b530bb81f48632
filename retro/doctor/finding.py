"""What one check of the doctor says, and the two ways of looking at a package without importing it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    name: str
    """What was looked at."""
    state: Literal["ok", "note", "problem"]
    """`note`: it works, but there is something to know. `problem`: a stage will fail."""
    found: str
    """What is there, with versions."""
    advice: str = ""
    """What to do; empty where there is nothing to do."""


def version_of(distribution: str) -> str | None:
    """The version of an installed distribution, None where there is none."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
