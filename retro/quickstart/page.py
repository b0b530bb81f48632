"""The frame of the quickstart's page, and what the acts' sections are made of; every text in it is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

from retro.common.terminal import Table


def page(results: Mapping[str, Any], sections: Sequence[str]) -> str:
    """The page as HTML; every text that comes from files is escaped.

    Args:
        results: Model and packages, as `results.json` has them.
        sections: Of the acts that were run, as HTML.
    """
    style = resources.files("retro.report").joinpath("templates/style.css").read_text(encoding="utf-8")
    lede = (
        f"{results['model']}, a small chat model, and the documentation of {', '.join(results['packages'])} as it lies "
        "on this machine. Every number was measured here."
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>What retrieval is worth</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{style}</style></head><body><header class='mast'><p class='eyebrow'>instruct-retro quickstart</p>"
        f"<h1>What retrieval is worth</h1><p class='lede'>{escape(lede)}</p></header><main>{''.join(sections)}"
        "</main></body></html>\n"
    )


def note(text: str) -> str:
    """A paragraph."""
    return f'<p class="note">{escape(text)}</p>'


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in a panel, as HTML."""
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return (
        f'<div class="panel"><div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        "</div></div>"
    )


def terminal_table(
    title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()
) -> Table:
    """The same for the terminal; columns of these numbers stand at the right."""
    made = Table(title=title)
    for place, heading in enumerate(headings):
        made.add_column(heading, align="right" if place in right else "left")
    for row in rows:
        made.add_row(*row)
    return made


def perplexity_text(row: Mapping[str, Any]) -> str:
    """A perplexity with its interval."""
    around = "" if row["low"] is None else f" ({row['low']:.3g} to {row['high']:.3g})"
    return f"{row['perplexity']:.3g}{around}"
