"""What one check of the doctor says, and the two ways of looking at a package without importing it."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
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


def folder_of(module: str) -> Path | None:
    """The folder of a top-level package, found without running a line of it; None where there is none."""
    spec = importlib.util.find_spec(module)
    locations = list(spec.submodule_search_locations or []) if spec else []
    return Path(locations[0]) if locations else None
