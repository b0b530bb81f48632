"""The page's section on leakage: what held-out text shares with training text, and what scores are without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from retro.report.figures import Series, line_chart
from retro.report.format import count, model_name, percent
from retro.report.run_summary import RunSummary

_COLORS = {("retro", "real"): 0, ("gpt", "-"): 1, ("gpt_equal", "-"): 2, ("retro", "none"): 3, ("retro", "shuffled"): 4}
_WHERE = {"training": "the training text", "neighbors": "the chunk's own neighbors"}


def section(run: RunSummary) -> str:
    """Sentences, curves and a table; or that leakage was not measured."""
    head = '<section id="leakage"><h2>Leakage</h2>'
    found = run.leakage
    if not found:
        # Nothing is wrong: it is measured when it is asked for.
        return (
            f'{head}<div class="panel"><p class="note">Not measured. <code>retro leakage</code>, then <code>retro '
            f"evaluate</code>, says how much of the held-out text stands in the training text.</p></div></section>"
        )
    said = "".join(f"<li>{escape(one)}</li>" for one in [*_stale(run, found), *found["sentences"]])
    charts = "".join(_chart(found, measure) for measure in _WHERE) if _rows(found, "training") else ""
    return (
        f'{head}<p class="note">How much of each chunk of the {escape(str(found["split"]))} split stands in the '
        f"training text in one piece (the longest common token substring, as a share of the chunk), and what every "
        f"model scores on the chunks of which at most a share α does.</p>"
        f'<div class="panel"><ul>{said}</ul></div><div class="two">{charts}</div>{_table(found)}</section>'
    )


def _stale(run: RunSummary, found: Mapping[str, Any]) -> list[str]:
    perplexity = run.stage("perplexity").manifest
    if found["perplexity"] is None or (perplexity and perplexity.fingerprint == found["perplexity"]):
        return []
    return [
        "This was measured with other perplexities than those above: run retro leakage, then retro evaluate, again."
    ]


def _rows(found: Mapping[str, Any], measure: str) -> Sequence[Mapping[str, Any]]:
    rows: Sequence[Mapping[str, Any]] = found["measures"][measure]["rows"]
    return rows


def _chart(found: Mapping[str, Any], measure: str) -> str:
    series = [
        Series(
            name=model_name(row["model"], row["neighbors"]),
            points=[(one["alpha"], one["bits_per_byte"]) for one in row["points"] if one["bits_per_byte"] is not None],
            color=_COLORS.get((row["model"], row["neighbors"]), 3),
            kind="dots",
        )
        for row in _rows(found, measure)
    ]
    chart = line_chart(series, x_label="α", y_label="bits per byte", label=f"leakage {measure}", x_name="α")
    legend = "".join(f'<span class="c{one.color}">{escape(one.name)}</span>' for one in series)
    return (
        f'<div class="panel"><h3>At most α stands in {_WHERE[measure]}</h3>{chart}<p class="legend">{legend}</p></div>'
    )


def _table(found: Mapping[str, Any]) -> str:
    """Chunks between each alpha and the one before it."""
    lines, before = [], 0.0
    for place, alpha in enumerate(found["alphas"]):
        cells = "".join(
            f'<td class="n">{count(number)} ({percent(number / max(found["chunks"], 1))})</td>'
            for number in (found["measures"][measure]["histogram"][place] for measure in _WHERE)
        )
        lines.append(f"<tr><td>{before:g} to {alpha:g}</td>{cells}</tr>")
        before = alpha
    heads = "".join(f'<th class="n">{words}</th>' for words in _WHERE.values())
    return (
        f'<div class="panel" style="margin-top:1rem"><h3>Chunks by the share found in one piece</h3>'
        f'<div class="scroll">'
        f"<table><thead><tr><th>share</th>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table></div></div>"
    )
