"""Scores of each kind of question, side by side: the same for the page and for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from retro.report.format import metric_name, percent, setting_name


def rows(scores: Mapping[str, Any]) -> Iterator[tuple[str, str, int, list[str]]]:
    """Label, its value, how many questions have it, and the main metric of each setting with its interval."""
    metric = scores["metrics"][0]
    for label, parts in scores.get("slices", {}).items():
        for value, part in parts.items():
            cells = [span(part["settings"][name][metric]) for name in scores["settings"]]
            yield label, value, part["questions"], cells


def span(found: Mapping[str, float]) -> str:
    """`12.0 (8.1–16.2)`, in percent."""
    mean, low, high = (percent(found[key]).removesuffix(" %") for key in ("mean", "low", "high"))
    return f"{mean} ({low}–{high})"


def panels(scores: Mapping[str, Any]) -> str:
    """A table for the page; nothing where no slices were asked for."""
    lines = "".join(
        f'<tr><td>{escape(label)}</td><td>{escape(value)}</td><td class="n">{count:,}</td>'
        + "".join(f'<td class="n">{cell}</td>' for cell in cells)
        + "</tr>"
        for label, value, count, cells in rows(scores)
    )
    if not lines:
        return ""
    heads = "".join(f'<th class="n">{escape(setting_name(name))}</th>' for name in scores["settings"])
    return (
        f'<div class="panel" style="margin-top:1rem"><h3>{escape(metric_name(scores["metrics"][0]))} of each kind of '
        f'question, in %</h3><div class="scroll"><table><thead><tr><th>label</th><th>value</th>'
        f'<th class="n">questions</th>{heads}</tr></thead><tbody>{lines}</tbody></table></div></div>'
    )
