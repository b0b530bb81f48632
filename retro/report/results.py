"""The page's sections on what was measured: losses, perplexity, scores of answers."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from retro.report import in_context, slices
from retro.report.figures import Series, interval_bar, line_chart, smooth
from retro.report.format import count, metric_name, model_name, percent, setting_name
from retro.report.run_summary import Curve, RunSummary
from retro.report.tables import PerplexityRow, perplexity_rows, recall_text

_COLORS = {
    "retro": 0,
    "gpt": 1,
    "gpt_equal": 2,
    "with_passages": 0,
    "closed_book": 1,
    "gold_passages": 2,
    "shuffled_passages": 4,
    "retrieved_passages": 5,
    "live_retrieval": 6,
}


def color_of(name: str) -> int:
    """The color of a model or a setting, the same all over the page."""
    return _COLORS.get(name.lower(), 3)


def lacking(what: str) -> str:
    """A panel that says that something was not measured."""
    return f'<div class="panel"><p class="lack">{escape(what)}</p></div>'


def perplexity_section(run: RunSummary) -> str:
    """Table of perplexities, and the losses that led there."""
    body = lacking("No perplexity.json: retro perplexity has not run.")
    if run.perplexity:
        body = _perplexity_table(perplexity_rows(run.perplexity), str(run.perplexity.get("split", "?")))
    body += in_context.panel(run.in_context)
    charts = _charts(run.pretraining, "pretraining") or lacking("No training log: retro pretrain has not run.")
    tuning = _charts(run.tuning, "tuning") or lacking("No tuning log: retro sft has not run.")
    return (
        f'<section id="perplexity"><h2>Perplexity</h2><p class="note">How surprised each model is by held-out text; '
        f"lower is better. <em>Shuffled</em> gives each chunk the neighbors of another, <em>none</em> nothing: "
        f"what is left of the gain then does not come from retrieval.</p>{body}{charts}"
        f'<h3 style="margin-top:1.6rem">Tuning on questions</h3>{tuning}</section>'
    )


def _perplexity_table(rows: Sequence[PerplexityRow], split: str) -> str:
    # Bars start at nine tenths of the best: from zero, a difference of one percent could not be seen. Said
    # beside it.
    low = 0.9 * min(row.perplexity for row in rows) if rows else 0.0
    span = max((row.perplexity for row in rows), default=1.0) - low or 1.0
    lines = "".join(_perplexity_line(row, (row.perplexity - low) / span) for row in rows)
    return (
        f'<div class="panel"><div class="scroll"><table><thead><tr><th>model</th><th>neighbors</th>'
        f'<th class="n">parameters</th><th class="n">perplexity</th><th class="barred"></th>'
        f'<th class="n">vs Retro, real</th></tr></thead><tbody>{lines}</tbody></table></div>'
        f'<p class="small">Measured on the {escape(split)} split. '
        f'<span class="barred">Bars begin at {low:,.1f}, not at zero.</span></p></div>'
    )


def _perplexity_line(row: PerplexityRow, share: float) -> str:
    itself = "" if row.difference else ' class="self"'
    color = {"GPT": 1, "GPT of equal parameters": 2, "Retro": 0}.get(row.model, 3)
    bar = (
        f'<svg class="bar" viewBox="0 0 100 14" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="track" x="0" y="2" width="100" height="10"/>'
        f'<rect class="fill c{color}" x="0" y="2" width="{100 * share:.2f}" height="10"/></svg>'
    )
    return (
        f'<tr{itself}><td><span class="swatch c{color}">{escape(row.model)}</span></td><td>{escape(row.neighbors)}</td>'
        f'<td class="n">{row.parameters}</td><td class="n">{row.shown}</td><td class="wide barred">{bar}</td>'
        f'<td class="n">{row.difference}</td></tr>'
    )


def _charts(curves: Sequence[Curve], what: str) -> str:
    if not curves:
        return ""
    train = [one for curve in curves for one in _train_series(curve)]
    valid = [
        Series(name=model_name(curve.name), points=curve.valid, color=color_of(curve.name), kind="dots")
        for curve in curves
    ]
    drawn = [
        (f"Training loss, {what}", line_chart(train, x_label="step", y_label="nats per token", label=f"train {what}")),
        (
            f"Validation loss, {what}",
            line_chart(valid, x_label="step", y_label="nats per token", label=f"valid {what}"),
        ),
    ]
    panels = [
        f'<div class="panel"><h3>{title}</h3>{chart}{_legend(curves, speeds=place == 0)}</div>'
        for place, (title, chart) in enumerate(drawn)
        if chart
    ]
    return f'<div class="two">{"".join(panels)}</div>'


def _train_series(curve: Curve) -> list[Series]:
    color, name = color_of(curve.name), model_name(curve.name)
    # A twentieth of the run at each place: enough to take the noise of single batches away, not the shape.
    reach = len(curve.train) // 40
    return [
        Series(name=name, points=curve.train, color=color, kind="faint"),
        Series(name=f"{name}, smoothed", points=smooth(curve.train, reach), color=color),
    ]


def _legend(curves: Sequence[Curve], *, speeds: bool) -> str:
    entries = []
    for curve in curves:
        known = curve.tokens_per_second if speeds else None
        speed = f", {count(round(known))} tokens/s" if known else ""
        entries.append(f'<span class="c{color_of(curve.name)}">{escape(model_name(curve.name))}{speed}</span>')
    return f'<p class="legend">{"".join(entries)}</p>'


def answers_section(run: RunSummary) -> str:
    """Scores with their intervals, what the passages held, scores of each kind of question, and how answers read."""
    head = '<section id="answers"><h2>Answers</h2>'
    if not run.scores:
        return f"{head}{lacking('No scores.json: retro evaluate has not scored this run.')}</section>"
    scores = run.scores
    settings = scores["settings"]
    panels = []
    for metric in scores["metrics"]:
        limit = max(mine[metric]["high"] for mine in settings.values()) * 1.05
        lines = "".join(_score_line(name, mine[metric], metric, limit) for name, mine in settings.items())
        panels.append(
            f'<div class="panel"><h3>{escape(metric_name(metric))}</h3><table><tbody>{lines}</tbody></table></div>'
        )
    sure = percent(scores["intervals"]["confidence"], 0)
    return (
        f'{head}<p class="note">{scores["questions"]:,} questions, each scored against all its gold answers. '
        f"Whiskers are {sure} intervals from resampling the questions.</p>"
        f'<div class="two">{"".join(panels)}</div>{_coverage_panel(run)}{slices.panels(scores)}{_wording_panel(run)}'
        f"</section>"
    )


def _score_line(name: str, found: dict[str, float], metric: str, limit: float) -> str:
    label = f"{metric_name(metric)} {setting_name(name)}"
    bar = interval_bar(found["mean"], found["low"], found["high"], limit, color_of(name), label)
    span = f"{percent(found['low']).removesuffix(' %')} to {percent(found['high'])}"
    return (
        f'<tr><td><span class="swatch c{color_of(name)}">{escape(setting_name(name))}</span></td>'
        f'<td class="wide">{bar}</td><td class="n">{percent(found["mean"])}<div class="sub">{span}</div></td></tr>'
    )


def _coverage_panel(run: RunSummary) -> str:
    lines = []
    for name, mine in (run.scores or {}).get("settings", {}).items():
        held = mine["answer_in_passages"]
        cells = [
            recall_text(mine),
            "" if held is None else percent(held),
            f"{mine['unanswered']}",
            f"{mine['skipped']}",
        ]
        row = "".join(f'<td class="n">{cell or "–"}</td>' for cell in cells)
        lines.append(
            f'<tr><td><span class="swatch c{color_of(name)}">{escape(setting_name(name))}</span></td>{row}</tr>'
        )
    return (
        f'<div class="panel" style="margin-top:1rem"><h3>What it was given</h3><div class="scroll"><table><thead>'
        f'<tr><th>setting</th><th class="n">right document found</th><th class="n">gold answer in passages</th>'
        f'<th class="n">empty answers</th><th class="n">did not fit</th></tr></thead><tbody>{"".join(lines)}</tbody>'
        f"</table></div></div>"
    )


def _wording_panel(run: RunSummary) -> str:
    """How long and how varied the answers are; nothing for scores from before this was counted."""
    settings = (run.scores or {}).get("settings", {})
    lines = []
    for name, mine in settings.items():
        found = mine.get("wording")
        if found is None:
            return ""
        cells = [_number(found["words"]), *(_share(found[key]) for key in _WORDING)]
        row = "".join(f'<td class="n">{cell}</td>' for cell in cells)
        swatch = f'<span class="swatch c{color_of(name)}">{escape(setting_name(name))}</span>'
        lines.append(f"<tr><td>{swatch}</td>{row}</tr>")
    heads = "".join(f'<th class="n">{words}</th>' for words in ("words", *_WORDING.values()))
    return (
        f'<div class="panel" style="margin-top:1rem"><h3>How the answers read</h3><div class="scroll"><table><thead>'
        f"<tr><th>setting</th>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
        f'<p class="small">Of answers that are not empty. Distinct: the share of different ones among all n-grams of '
        f"all answers. Repeated: 4-grams that stood in the same answer before. A loop: the end is one phrase three "
        f"times.</p></div>"
    )


_WORDING = {
    "distinct_1": "distinct 1-grams",
    "distinct_2": "distinct 2-grams",
    "repeated_4": "repeated 4-grams",
    "in_a_loop": "end in a loop",
}


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _share(value: float | None) -> str:
    return "–" if value is None else percent(value)
