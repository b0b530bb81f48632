"""Perplexity with passages in the prompt, as rows of text: the same for the page and for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any, NamedTuple

from retro.common.terminal import Table
from retro.report.format import loss, model_name, percent, signed_percent

_BEFORE = {
    "found": "passages found for it",
    "shuffled": "another text's passages",
    "none": "nothing",
    "more_text": "more of the text itself",
}
_HEADS = ("model", "before the text", "perplexity", "interval", "found against it", "p")


class Row(NamedTuple):
    """One model under one condition."""

    model: str
    before: str
    perplexity: str
    interval: str
    found: str
    """Perplexity with found passages against this one; empty for that row itself."""
    p_value: str


def rows(measured: Mapping[str, Any]) -> Iterator[Row]:
    """The rows of in_context.json."""
    against = {(one["model"], one["minus"]): one for one in measured["differences"]}
    for row in measured["rows"]:
        found = against.get((row["model"], row["passages"]))
        yield Row(
            model=model_name(str(row["model"])),
            before=_BEFORE.get(row["passages"], str(row["passages"])),
            perplexity=loss(row["perplexity"]),
            interval="" if row["low"] is None else f"{loss(row['low'])}–{loss(row['high'])}",
            found="" if found is None else signed_percent(math.expm1(found["mean"])),
            p_value="" if found is None else f"{found['p_value']:.2g}",
        )


def caption(measured: Mapping[str, Any]) -> str:
    """What was measured on, in a sentence."""
    row, settings = measured["rows"][0], measured["measured"]["settings"]
    sure = percent(settings["confidence"], 0)
    lengths = next(iter(measured["prompts"].values()))
    return (
        f"{row['tokens']:,} tokens of {row['documents']:,} documents, the same everywhere: {lengths['stride']} after "
        f"each search, {settings['passages']} passages, up to {lengths['prefix']} tokens of preceding text; "
        f"{lengths['without_passages']:,} of {lengths['targets']:,} searches found nothing. {sure} intervals and p are "
        "over whole documents"
    )


def table(measured: Mapping[str, Any]) -> Table:
    """For the terminal."""
    made = Table(title=f"Perplexity with passages in the prompt, {measured['split']} split")
    for number, head in enumerate(_HEADS):
        made.add_column(head, align="left" if number < 2 else "right")
    for row in rows(measured):
        made.add_row(*row)
    made.caption = caption(measured)
    return made


def panel(measured: Mapping[str, Any] | None) -> str:
    """For the page; nothing where it was not measured."""
    if not measured:
        return ""
    classes = ["", "", *[' class="n"'] * 4]
    heads = "".join(f"<th{kind}>{head}</th>" for kind, head in zip(classes, _HEADS, strict=True))
    lines = "".join(
        f"<tr>{''.join(f'<td{kind}>{escape(cell)}</td>' for kind, cell in zip(classes, row, strict=True))}</tr>"
        for row in rows(measured)
    )
    return (
        f'<div class="panel" style="margin-top:1rem"><h3>With passages in the prompt</h3><div class="scroll"><table>'
        f"<thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>"
        f'<p class="small">{escape(caption(measured))}. No encoder reads anything here.</p></div>'
    )
