"""The page of one model: charts, tables of every condition, and cases of each quadrant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from retro.recipes.knowledge_conflict.conditions import Judged, quadrant_of
from retro.recipes.knowledge_conflict.items import CLOSED_BOOK, SUPPORTS, ConflictItem, in_order
from retro.recipes.knowledge_conflict.judgement import Judgement
from retro.recipes.knowledge_conflict.quadrants import QUADRANTS
from retro.recipes.knowledge_conflict.tables import WORDS, tables, words_of
from retro.report.figures import Bar, interval_bars
from retro.report.format import percent
from retro.report.questions import highlight
from retro.report.render import render, write_page

_COLORS = {CLOSED_BOOK: 1, "original": 0, "substituted": 2, "counter_memory": 2, "irrelevant": 4, "unanswerable": 5}


def write_conflicts_page(
    path: Path,
    found: Mapping[str, Any],
    items: Sequence[ConflictItem],
    judged: Judged,
    cases: int,
) -> None:
    """Write the page.

    Args:
        path: Where.
        found: The metrics.
        items: The questions.
        judged: Their answers.
        cases: How many of each quadrant are shown.
    """
    lede = (
        f"{found['items']:,} questions, answered closed-book and with the passages of {len(found['conditions'])} "
        f"conditions. Right is by {found['metric'].replace('_', ' ')}. Shares are in percent with Wilson's "
        f"{percent(found['intervals']['confidence'], 0)} intervals and their numbers; a dash is a share of nothing."
    )
    groups = list(_groups(items, judged, found["quadrants_of"], cases))
    html = render(
        "conflicts",
        name="Memory against passages",
        lede=lede,
        tables=tables(found),
        charts=_charts(found),
        groups=groups,
    )
    write_page(path, html)


def _charts(found: Mapping[str, Any]) -> list[tuple[str, Markup]]:
    shown = [(CLOSED_BOOK, found["closed_book"]["right"])]
    shown += [(name, one["right"]) for name, one in found["conditions"].items()]
    right = [
        Bar(words_of(name), one["share"], percent(one["share"]), _COLORS.get(name, 3), (one["low"], one["high"]))
        for name, one in shown
        if one["share"] is not None
    ]
    parts = [
        Bar(
            WORDS[name],
            one["share"],
            f"{percent(one['share'])}, {one['count']} of {one['of']}",
            place,
            (one["low"], one["high"]),
        )
        for place, (name, one) in enumerate(found["quadrants"].items())
        if one["share"] is not None
    ]
    title = f"Quadrants: closed-book and {words_of(found['quadrants_of'])}"
    made = [
        ("Right answers", interval_bars(right, label="right answers")),
        (title, interval_bars(parts, label="quadrants")),
    ]
    return [one for one in made if one[1]]


def _groups(items: Sequence[ConflictItem], judged: Judged, base: str, shown: int) -> Iterator[dict[str, Any]]:
    for part in (*QUADRANTS, None):
        mine = [one for one in items if quadrant_of(judged[one.id], base) == part]
        cases = [case(one, {"": judged[one.id]}) for one in mine[:shown]]
        if mine:
            yield {
                "title": "not known what is right" if part is None else WORDS[part],
                "count": len(mine),
                "cases": cases,
            }


def case(item: ConflictItem, answers: Mapping[str, Mapping[str, Judgement]]) -> dict[str, Any]:
    """A question as the page shows it.

    Args:
        item: The question.
        answers: By model, of which one may be without a name, and by condition.
    """
    roles = {"right": item.answers, "original": item.original, "other": item.counter}
    said = [
        _answer_of(f"{words_of(name)}{f', {model}' if model else ''}", name, mine[name])
        for name in in_order(next(iter(answers.values())))
        for model, mine in answers.items()
    ]
    golds = (*item.answers, *item.original, *item.counter)
    passages = [
        (words_of(name), one.title, highlight(one.text, golds)) for name in in_order(item.conditions)
        for one in item.conditions[name]
    ]  # fmt: skip
    named = [(role, text) for role, found in roles.items() for text in found[:3]]
    return {"id": item.id, "question": item.question, "answers": named, "said": said, "passages": passages}


def _answer_of(who: str, condition: str, one: Judgement) -> dict[str, Any]:
    verdict = "" if one.right is None else "right" if one.right else "wrong"
    side = "original" if one.original and not one.counter else "other" if one.counter and not one.original else ""
    words = [
        {"right": "✓ right", "wrong": "✗ wrong"}.get(verdict, ""),
        side if SUPPORTS[condition] != "nothing" else "",
    ]
    words += ["abstains"] if one.unknown else []
    color = _COLORS.get(condition, 3)
    return {
        "who": who,
        "verdict": verdict,
        "words": ", ".join(filter(None, words)),
        "text": one.prediction,
        "color": color,
    }
