"""Throw-away distributions of other people, as pip would install them: a package and its entry points."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from retro.common.registry import Registry


def write_distribution(folder: Path, name: str, files: Mapping[str, str], entries: Mapping[str, str]) -> None:
    """Install a distribution into `folder`.

    Args:
        folder: Stands for site-packages.
        name: Of the distribution; its version is 1.0.
        files: Texts by path below `folder`.
        entries: Lines of entry points by group.
    """
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    about = folder / f"{name}-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
    lines = "".join(f"[{group}]\n{line}\n" for group, line in entries.items())
    (about / "entry_points.txt").write_text(lines, encoding="utf-8")


@contextmanager
def installed(folder: Path, *registries: Registry[Any]) -> Iterator[None]:
    """Let this process see what is installed in `folder`, and forget it afterwards."""
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        for registry in registries:
            registry.reload()
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(folder)):
                del sys.modules[name]
        for registry in registries:
            registry.reload()
