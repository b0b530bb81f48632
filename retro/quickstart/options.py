"""What a quickstart is asked for."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retro.run.documents import MODEL

_OF_ACT = {
    "": ("model", "seed", "packages"),
    "answers": ("questions", "held_out"),
    "versions": ("older", "targets"),
    "learning": ("steps",),
    "update": (),
}
ACTS = ("answers", "versions", "learning", "update")
"""In the order of the page."""
OLDER = Path(sys.prefix) / "older" / "networkx"
"""Where `make quickstart` puts an earlier version of a package, beside those that are imported."""
PACKAGES = ("numpy", "scipy", "sklearn")
"""Packages whose docstrings have numpydoc's form; they come with the sentence embedder."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is asked for."""

    out: Path
    acts: tuple[str, ...] = ACTS
    questions: int = 40
    seed: int = 1
    """Draws the questions, and the passages of another text."""
    model: str = MODEL
    packages: tuple[str, ...] = PACKAGES
    held_out: bool = True
    """Questions about the half of the documents that no setting was chosen on."""
    older: Path = OLDER
    """Folder of an earlier version of an installed package, for `versions`."""
    targets: int = 48
    """Places of the newer version's text whose next tokens are predicted, each in a document of its own."""
    steps: int = 150
    """Of training, for `learning`."""

    def asked(self, act: str) -> dict[str, Any]:
        """What the results of an act depend on, as JSON has it; under "" what those of all do."""
        values = {name: getattr(self, name) for name in _OF_ACT[act]}
        return {
            name: list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
            for name, value in values.items()
        }
