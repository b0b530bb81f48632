"""The page of the quickstart: sections that the acts fill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from markupsafe import Markup

from retro.common.terminal import Table
from retro.report.render import render


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
