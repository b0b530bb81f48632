"""The page of a run: one HTML file that needs nothing else, for a person to read from top to bottom."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from retro.common import checksummed_json
from retro.report import leakage, tables
from retro.report.figures import Bar, Series, interval_bars, line_chart
from retro.report.format import (
    color_of,
    count,
    loss,
    metric_name,
    model_name,
    percent,
    seconds,
    setting_name,
    signed_percent,
)
from retro.report.questions import GROUPS, cards
from retro.report.remarks import perplexity_of, remarks
from retro.report.render import render, write_page
from retro.report.run_summary import Curve, RunSummary, stage_dir, summarize
from retro.report.stages import run_facts, stage_row, versions


def write_report(run_dir: Path, path: Path, *, questions_shown: int, asked: str = "") -> Path:
    """Write the page of a run, finished or not; what is missing is said to be missing.

    Args:
        run_dir: The run's directory, with its numbered stage folders.
        path: Where the page goes.
        questions_shown: Questions shown with their passages.
        asked: `generate.name` of the answers to show.

    Returns:
        `path`.
    """
    write_page(path, checksummed_json.page(run_page(summarize(run_dir, asked), questions_shown)))
    return path


def run_page(run: RunSummary, questions_shown: int) -> str:
    """The page as HTML."""
    return render(
        "run",
        run=run,
        name=" · ".join(filter(None, [run.run_dir.resolve().name, run.asked])),
        lede=_lede(run),
        highlights=_highlights(run),
        remarks=remarks(run),
        perplexity=_perplexity(run.perplexity),
        in_context=tables.in_context_table(run.in_context) if run.in_context else None,
        pretraining=_losses(run.pretraining, "pretraining"),
        tuning=_losses(run.tuning, "tuning"),
        leakage=_leakage(run),
        answers=_answers(run.scores),
        cards=cards(run, questions_shown),
        first=min(questions_shown, *(len(given) for given in run.answers.values())) if run.answers else 0,
        groups=GROUPS,
        stages=[stage_row(stage) for stage in run.stages],
        facts=run_facts(run),
        versions=versions(),
        folders={stage.name: stage_dir(run.run_dir, stage.name, run.asked).name for stage in run.stages},
    )


def _lede(run: RunSummary) -> str:
    """What the run is, in a sentence made of what is known."""
    corpus = run.stage("corpus").manifest
    documents = corpus.counts.get("documents") if corpus else None
    read = f" on {count(documents)} documents" if isinstance(documents, int | float) else ""
    rows = (run.perplexity or {}).get("rows", [])
    sizes = [row["parameters"] for row in rows if str(row["model"]).lower() == "retro" and row.get("parameters")]
    size = f" with {count(sizes[0])} parameters" if sizes else ""
    asked = f", then asked {count(run.scores['questions'])} questions" if run.scores else ""
    state = f" {run.finished} of {len(run.stages)} stages are finished." if run.finished < len(run.stages) else ""
    return f"A retrieval-augmented language model{size}, trained{read}{asked}.{state}"


def _highlights(run: RunSummary) -> Iterator[tuple[str, str, str]]:
    """What, a number, and what to hold it against."""
    real, shuffled = (perplexity_of(run.perplexity, "retro", given) for given in ("real", "shuffled"))
    if real is not None:
        against = "" if shuffled is None else f"{signed_percent(real / shuffled - 1, 2)} against shuffled neighbors"
        yield "Perplexity, real neighbors", loss(real), against
    if run.scores:
        metric = run.scores["metrics"][0]
        (first, mine), *others = run.scores["settings"].items()
        against = ", ".join(f"{setting_name(name)} {percent(other[metric]['mean'])}" for name, other in others)
        yield f"{metric_name(metric)} {setting_name(first)}", percent(mine[metric]["mean"]), against
        if mine.get("recall"):
            k, share = max(mine["recall"]["at"].items(), key=lambda item: int(item[0]))
            yield "Right document found", percent(share), f"among the first {k} passages"
    times = [stage.seconds for stage in run.stages if stage.seconds is not None]
    if times:
        yield "Time of all stages", seconds(sum(times)), f"{run.finished} of {len(run.stages)} finished"


def _perplexity(perplexity: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Table and bars. These start at nine tenths of the best: from zero, one percent could not be seen."""
    if not perplexity:
        return None
    rows = tables.perplexity_rows(perplexity)
    start = 0.9 * min((float(row["perplexity"]) for row in rows), default=0.0)
    bars = []
    for row in rows:
        value, name = float(row["perplexity"]), model_name(row["model"], row.get("neighbors", "-"))
        bars.append(Bar(name, value, loss(value), color_of(row["model"])))
    chart = interval_bars(bars, label="Perplexity", start=start)
    return {"table": tables.perplexity_table(perplexity), "bars": chart, "start": start}


Chart = tuple[str, Markup, list[tuple[str, int]]]
"""Title, drawing, and the names of its colors."""


def _losses(curves: Sequence[Curve], what: str) -> list[Chart]:
    """Training and validation losses of all runs of a stage."""
    train = [one for curve in curves for one in _train_series(curve)]
    valid = [
        Series(name=model_name(curve.name), points=curve.valid, color=color_of(curve.name), kind="dots")
        for curve in curves
    ]
    names = [(one.name, one.color) for one in valid]
    speeds = [f", {count(round(one.tokens_per_second))} tokens/s" if one.tokens_per_second else "" for one in curves]
    fast = [(name + speed, color) for (name, color), speed in zip(names, speeds, strict=True)]
    drawn = [("Training loss", train, fast), ("Validation loss", valid, names)]
    charts = [
        (
            f"{title}, {what}",
            line_chart(lines, x_label="step", y_label="nats per token", label=f"{title}, {what}"),
            keys,
        )
        for title, lines, keys in drawn
    ]
    return [chart for chart in charts if chart[1]]


def _train_series(curve: Curve) -> list[Series]:
    color, name = color_of(curve.name), model_name(curve.name)
    # A twentieth of the run at each place: enough to take the noise of single batches away, not the shape.
    reach = len(curve.train) // 40
    return [
        Series(name=name, points=curve.train, color=color, kind="faint"),
        Series(name=f"{name}, smoothed", points=smooth(curve.train, reach), color=color),
    ]


def smooth(points: Sequence[tuple[float, float]], reach: int) -> list[tuple[float, float]]:
    """Mean of each y with its neighbors, up to `reach` on either side; fewer at the two ends.

    Centered, unlike a running average: that one lags behind, and shows a falling loss higher than it was.
    """
    sums = [0.0]
    for _, y in points:
        sums.append(sums[-1] + y)
    result = []
    for place, (x, _) in enumerate(points):
        first, end = max(0, place - reach), min(len(points), place + reach + 1)
        result.append((x, (sums[end] - sums[first]) / (end - first)))
    return result


def _leakage(run: RunSummary) -> dict[str, Any] | None:
    """Sentences, curves and a table."""
    found = run.leakage
    if not found:
        return None
    perplexity = run.stage("perplexity").manifest
    charts = []
    for measure in leakage.DRAWN:
        lines = leakage.curves(found, measure)
        title = f"At most α is in {leakage.WHERE[measure]}"
        charts.append((title, leakage.chart(lines, measure), [(one.name, one.color) for one in lines]))
    return {
        "stale": found["perplexity"] and not (perplexity and perplexity.fingerprint == found["perplexity"]),
        "sentences": leakage.sentences(found),
        "charts": [chart for chart in charts if chart[1]],
        "table": leakage.share_table(found),
        "split": str(found["split"]),
    }


def _answers(scores: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Scores with their intervals, what was given to read, scores of each kind of question, how answers read."""
    if not scores:
        return None
    charts = {metric_name(metric): _score_bars(scores["settings"], metric) for metric in scores["metrics"]}
    shown = (tables.passages_table(scores), tables.slices_table(scores), tables.answer_texts_table(scores))
    return {"charts": charts, "tables": [table for table in shown if table]}


def _score_bars(settings: Mapping[str, Any], metric: str) -> Markup:
    bars = []
    for name, mine in settings.items():
        mean, low, high = (mine[metric][key] for key in ("mean", "low", "high"))
        shown = f"{percent(mean)} ({percent(low).removesuffix(' %')} to {percent(high)})"
        bars.append(Bar(setting_name(name), mean, shown, color_of(name), (low, high)))
    return interval_bars(bars, label=metric_name(metric))
