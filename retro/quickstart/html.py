"""Pieces of the page; every text in them is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape


def note(text: str) -> str:
    """A paragraph."""
    return f'<p class="note">{escape(text)}</p>'


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in a panel."""
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return (
        f'<div class="panel"><div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        "</div></div>"
    )
