"""Retrievers side by side: tables, charts, and questions that two of them answer differently."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from retro.common.terminal import Table
from retro.recipes.dense_retriever.evaluation.compare import Side
from retro.recipes.dense_retriever.evaluation.curves import curve_words
from retro.recipes.dense_retriever.evaluation.ranking import MRR_DEPTH, NDCG_DEPTH, UNITS
from retro.recipes.dense_retriever.published import PUBLISHED
from retro.report.figures import Bar, Series, interval_bars, line_chart
from retro.report.format import percent, signed_percent, span
from retro.report.render import render
from retro.report.tables import new_table

_BY = {"segment": "by segment", "document": "by document", "answer": "by answer string"}
SETS = {
    "passages": "All passages",
    "positives": "Positives of the held-out pairs alone, as the original measured",
    "questions": "Further questions, all passages",
}
"""What is searched, in words; a BEIR folder has its own name."""
_COLORS = 7
CASES = 5


def set_title(name: str) -> str:
    """What a set of questions is searched in, in words."""
    return SETS.get(name, name)


def tables(scores: Mapping[str, Any]) -> list[Table]:
    """All tables of the page; the terminal prints the same."""
    made: list[Table] = []
    for name, one in scores["sets"].items():
        for unit in UNITS:
            made += [_unit_table(name, one, unit, scores["at"])] if _has(one, f"{unit}_mrr") else []
        made += [_difference_table(name, one)] if len(one["retrievers"]) > 1 else []
    return [*made, published_table()]


def _has(one: Mapping[str, Any], metric: str) -> bool:
    return any(metric in found["metrics"] for found in one["retrievers"].values())


def _unit_table(name: str, one: Mapping[str, Any], unit: str, at: Sequence[int]) -> Table:
    metrics = {f"{unit}_top{k}": f"top-{k}" for k in at} | {f"{unit}_mrr{MRR_DEPTH}": f"MRR@{MRR_DEPTH}"}
    metrics |= {f"{unit}_mrr": "MRR"}
    if unit == "segment":
        metrics |= {"ndcg10": f"nDCG@{NDCG_DEPTH}", f"recall{at[-1]}": f"recall@{at[-1]}"}
    table = new_table(f"{set_title(name)}: {_BY[unit]}, in %", "retriever", right=metrics.values())
    table.caption = f"{one['questions']:,} questions, {one['passages']:,} passages; {_missing(one, unit)}"
    for retriever, found in one["retrievers"].items():
        table.add_row(retriever, *[_cell(found["metrics"].get(metric)) for metric in metrics])
    return table


def _missing(one: Mapping[str, Any], unit: str) -> str:
    """How many questions cannot be answered, or are not judged, in a unit."""
    if unit == "answer":
        return f"{one['without_answers']:,} questions without answer strings are not counted"
    return f"{one['without_relevant']:,} questions without a relevant passage count as 0"


def _cell(found: Mapping[str, float] | None) -> str:
    return "–" if found is None else span(found)


def main_metric(one: Mapping[str, Any], at: Sequence[int]) -> str:
    """The metric that charts show: accuracy among the second number of passages, by the first unit that there is."""
    units = [unit for unit in ("document", "segment", "answer") if _has(one, f"{unit}_mrr")]
    return f"{units[0]}_top{at[min(1, len(at) - 1)]}" if units else ""


def metric_words(metric: str) -> str:
    """A metric in words."""
    unit, _, rest = metric.partition("_")
    if unit not in _BY:
        return metric.replace("ndcg", "nDCG@").replace("recall", "recall@")
    shown = rest.replace("top", "top-").replace("mrr1", "MRR@1").replace("mrr", "MRR")
    return f"{shown} {_BY[unit]}"


def _difference_table(name: str, one: Mapping[str, Any]) -> Table:
    first, *others = one["retrievers"]
    metrics = list(one["retrievers"][others[0]]["differences"])
    table = new_table(f"{set_title(name)}: differences from {first}, in points", "metric", right=others)
    table.caption = "With bootstrap intervals of paired differences; p by McNemar's exact test, or by sign flips"
    for metric in metrics:
        cells = [difference_cell(one["retrievers"][other]["differences"].get(metric)) for other in others]
        table.add_row(metric_words(metric), *cells)
    return table


def difference_cell(found: Mapping[str, Any] | None) -> str:
    """A paired difference with its interval and p-value."""
    if found is None:
        return "–"
    mean, low, high = (signed_percent(found[key]).removesuffix(" %") for key in ("mean", "low", "high"))
    return f"{mean} ({low} to {high}), p {found['p']:.2g}"


def published_table() -> Table:
    """What the original reports of its own retrievers."""
    table = new_table("Published: top-5 among the validation's positives", "objective", "training", right=("top-5",))
    for one in PUBLISHED:
        table.add_row(one.objective, one.training, one.top5)
    return table


def scores_page(
    scores: Mapping[str, Any], curves: Mapping[str, Sequence[tuple[float, float]]], groups: Sequence[Mapping[str, Any]]
) -> str:
    """The page of the step `evaluate`.

    Args:
        scores: What embedders.json holds.
        curves: Of training, by name: steps and values.
        groups: From `cases`.
    """
    names = list(dict.fromkeys(name for one in scores["sets"].values() for name in one["retrievers"]))
    lede = (
        f"{', '.join(names)} on the same questions and passages. Intervals hold "
        f"{percent(scores['intervals']['confidence'], 0)} of the resamples of the questions. Top-k is the share of "
        "questions with a right passage among the first k."
    )
    return render(
        "retrievers",
        name="Recall of each retriever",
        lede=lede,
        tables=tables(scores),
        charts=[*_bars(scores, names), *_curves(curves)],
        groups=groups,
    )


def _bars(scores: Mapping[str, Any], names: Sequence[str]) -> Iterator[tuple[str, Markup]]:
    for name, one in scores["sets"].items():
        metric = main_metric(one, scores["at"])
        bars = [
            Bar(
                retriever, found["mean"], percent(found["mean"]), names.index(retriever) % _COLORS,
                (found["low"], found["high"]),
            )
            for retriever, each in one["retrievers"].items()
            if (found := each["metrics"].get(metric)) is not None
        ]  # fmt: skip
        title = f"{set_title(name)}: {metric_words(metric)}"
        if bars:
            yield title, interval_bars(bars, label=title)


def _curves(curves: Mapping[str, Sequence[tuple[float, float]]]) -> Iterator[tuple[str, Markup]]:
    for number, (name, points) in enumerate(curves.items()):
        if points:
            series = Series(name=name, points=points, color=number % _COLORS, kind="dots")
            title = f"Training: {curve_words(name)}"
            yield title, line_chart([series], x_label="step", y_label="", label=title)


def cases(
    lines: Sequence[Mapping[str, Any]], a: Mapping[str, str], b: Mapping[str, str], metric: str, most: int = CASES
) -> list[dict[str, Any]]:
    """Questions that one retriever answers and the other does not, in two groups; none without any.

    Args:
        lines: Of questions.jsonl; with one line for both retrievers, or with the other's values merged into it.
        a: `name` (as shown) and `key` (in the line) of one.
        b: Of the other.
        metric: 0 or 1, or a value between: 0 is no answer.
        most: Of each group.
    """
    made = []
    for right, wrong in ((a, b), (b, a)):
        mine = [one for one in lines if _right(one, right["key"], metric) and not _right(one, wrong["key"], metric)]
        if mine:
            shown = [_case(one, (a, b), metric) for one in mine[:most]]
            made.append({"title": f"{metric_words(metric)}: only {right['name']}", "count": len(mine), "cases": shown})
    return made


def _right(one: Mapping[str, Any], key: str, metric: str) -> bool:
    return bool(one["values"].get(key, {}).get(metric, 0.0) > 0)


def _case(one: Mapping[str, Any], both: Sequence[Mapping[str, str]], metric: str) -> dict[str, Any]:
    found = [
        {
            "who": side["name"],
            "right": _right(one, side["key"], metric),
            "title": one["best"].get(side["key"], {}).get("title", ""),
            "text": one["best"].get(side["key"], {}).get("text", ""),
            "color": number,
        }
        for number, side in enumerate(both)
    ]
    return {"id": one["id"], "question": one["question"], "found": found}


def compare_tables(found: Mapping[str, Any]) -> list[Table]:
    """Two retrievers as tables, one for each set."""
    made = []
    for name, one in found["sets"].items():
        a, b = found["a"], found["b"]
        title = f"{set_title(name)}: A {a['retriever']} of {a['name']}, B {b['retriever']} of {b['name']}, in %"
        table = new_table(title, "metric", right=("A", "B", "B − A", "test"))
        table.caption = f"{one['questions']:,} questions; differences in points, with their bootstrap intervals"
        for metric, each in one["metrics"].items():
            shares = [percent(each[side]).removesuffix(" %") for side in ("a", "b")]
            test = {"mcnemar": "McNemar", "sign_flips": "sign flips"}[each["test"]]
            table.add_row(metric_words(metric), *shares, difference_cell(each), test)
        made.append(table)
    return made


def compare_page(found: Mapping[str, Any], a: Side, b: Side) -> str:
    """The page of two retrievers."""
    sides = [{"name": f"{key.upper()} ({found[key]['retriever']})", "key": key} for key in ("a", "b")]
    groups: list[dict[str, Any]] = []
    for name, one in found["sets"].items():
        metric = next((each for each in one["metrics"] if each.endswith("_top5")), "")
        metric = metric or next(iter(one["metrics"]), "")
        if metric:
            groups += cases(list(_merged(a, b, name)), sides[0], sides[1], metric)
    lede = (
        f"A: {a.retriever} of {a.name}. B: {b.retriever} of {b.name}. The same questions and passages. Differences "
        f"have {percent(found['intervals']['confidence'], 0)} bootstrap intervals over questions."
    )
    return render(
        "retrievers", name="Two retrievers", lede=lede, tables=compare_tables(found), charts=[], groups=groups
    )


def _merged(a: Side, b: Side, name: str) -> Iterator[Mapping[str, Any]]:
    for one, other in zip(a.lines[name], b.lines[name], strict=True):
        both = (("a", one, a.retriever), ("b", other, b.retriever))
        yield {
            "id": one["id"],
            "question": one["question"],
            "values": {key: line["values"].get(retriever, {}) for key, line, retriever in both},
            "best": {key: line["best"].get(retriever, {}) for key, line, retriever in both},
        }
