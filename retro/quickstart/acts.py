"""What the acts of the quickstart share: what they are asked for, and the page that they fill."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from retro.common.terminal import Table
from retro.report.render import render
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


class AnsweredQuestion(NamedTuple):
    """A question with its answers."""

    question: str
    golds: Sequence[str]
    said: Sequence[tuple[str, bool, str]]
    """What was read, whether the answer is right, the answer."""
    passages: Sequence[Markup]
    """With gold answers marked."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A section of the page; what it does not have is left out."""

    title: str
    note: str = ""
    table: Table | None = None
    charts: Sequence[tuple[str, Markup, Sequence[tuple[str, int]]]] = ()
    """Title, drawing, and the names of its colors."""
    below: str = ""
    """A note below tables and charts."""
    asked: Sequence[AnsweredQuestion] = ()


def page(results: Mapping[str, Any], sections: Sequence[Section]) -> str:
    """The page as HTML.

    Args:
        results: Model and packages, as `results.json` has them.
        sections: Of the acts that were run.
    """
    lede = (
        f"{results['model']}, a small chat model, and the documentation of {', '.join(results['packages'])} as it is "
        "on this machine. Every number was measured here."
    )
    return render("quickstart", name="What retrieval is worth", lede=lede, sections=sections)


def perplexity_text(row: Mapping[str, Any]) -> str:
    """A perplexity with its interval."""
    around = "" if row["low"] is None else f" ({row['low']:.3g} to {row['high']:.3g})"
    return f"{row['perplexity']:.3g}{around}"
