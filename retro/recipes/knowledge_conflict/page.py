"""The page of one model: tables of every condition, and cases of each quadrant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from retro.common.terminal import Table
from retro.recipes.knowledge_conflict.conditions import quadrant_of
from retro.recipes.knowledge_conflict.items import CLOSED_BOOK, SUPPORTS, ConflictItem, in_order
from retro.recipes.knowledge_conflict.judgement import Judgement
from retro.recipes.knowledge_conflict.quadrants import QUADRANTS
from retro.report.figures import Bar, interval_bars
from retro.report.format import percent, span
from retro.report.questions import highlight
from retro.report.render import render, write_page
from retro.report.tables import new_table

NONE = "–"
WORDS: Mapping[str, str] = {
    "both": "both right",
    "memory": "only memory right",
    "context": "only context right",
    "neither": "neither right",
}
"""Quadrants, in words."""
_COLORS = {CLOSED_BOOK: 1, "original": 0, "substituted": 2, "counter_memory": 2, "irrelevant": 4, "unanswerable": 5}


def words_of(condition: str) -> str:
    """A condition in words."""
    return condition.replace("_", "-" if condition == CLOSED_BOOK else " ")


def cell(found: Mapping[str, Any] | None) -> str:
    """`62.5 (45.3–77.1) 20/32`: a share in percent with its interval and its numbers; a dash where there is none."""
    if found is None or found["share"] is None:
        return NONE
    return f"{span({**found, 'mean': found['share']})} {found['count']}/{found['of']}"


def mean_cell(found: Mapping[str, Any]) -> str:
    """`-0.12 (-0.20 to -0.05) n 32`, a dash where there is no value."""
    if found["mean"] is None:
        return NONE
    return f"{found['mean']:.2f} ({found['low']:.2f} to {found['high']:.2f}) n {found['count']}"


def write_conflicts_page(
    path: Path,
    found: Mapping[str, Any],
    items: Sequence[ConflictItem],
    judged: Mapping[str, Mapping[str, Judgement]],
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


def tables(found: Mapping[str, Any]) -> list[Table]:
    """All tables of one model."""
    made = [_accuracy(found), _sides(found), _flips(found), _inside(found), _abstains(found)]
    return [*made, _confidence(found)] if found["closed_book"]["confidence"] else made


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


def _rows(found: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield from found["conditions"].items()


def _accuracy(found: Mapping[str, Any]) -> Table:
    names = [WORDS[one] for one in QUADRANTS]
    table = new_table("Right answers, and quadrants of closed-book and each condition", "condition", "supports",
                      right=("right", *names))  # fmt: skip
    table.add_row(words_of(CLOSED_BOOK), "nothing", cell(found["closed_book"]["right"]), *[""] * len(names))
    for name, one in _rows(found):
        table.add_row(
            words_of(name), one["supports"], cell(one["right"]), *[cell(one["quadrants"][q]) for q in QUADRANTS]
        )
    return table


def _sides(found: Mapping[str, Any]) -> Table:
    right = ("original answer", "other answer", "M_R, all", "M_R, known", "context bias", "prior bias", "one right")
    table = new_table("Which side answers take", "condition", right=right)
    table.caption = (
        "M_R: of the answers with one of the two, the share with the original; known: where the closed-book answer has "
        "it. Context bias: wrong although memory was right and the passages were not; prior bias: the reverse; one "
        "right: right where exactly one of them is."
    )
    for name, one in _rows(found):
        ratio, rates = one.get("memorisation_ratio", {}), one.get("clash", {})
        cells = [one["original"], one["counter"], ratio.get("all"), ratio.get("known")]
        cells += [rates.get(part) for part in ("context_bias", "prior_bias", "one_right")]
        table.add_row(words_of(name), *map(cell, cells))
    rates = found["clash"]
    table.add_row("all that support one", "", "", "", "", *[cell(rates[one]) for one in rates], style="bold")
    return table


def _flips(found: Mapping[str, Any]) -> Table:
    names = ("kept_right", "lost", "gained", "kept_wrong", "resistance", "correction")
    table = new_table("From closed-book to each condition", "condition", right=[one.replace("_", " ") for one in names])
    table.caption = (
        "Resistance: of the answers that were right, those that stay so. Correction: of the wrong ones, those \
that become right."
    )
    for name, one in _rows(found):
        table.add_row(words_of(name), *[cell(one["flips"][part]) for part in names])
    return table


def _inside(found: Mapping[str, Any]) -> Table:
    base = words_of(found["quadrants_of"])
    table = new_table(f"Right answers inside each quadrant of closed-book and {base}", "condition",
                      right=[WORDS[one] for one in QUADRANTS])  # fmt: skip
    for name, one in _rows(found):
        table.add_row(words_of(name), *[cell(one["right_inside"][part]) for part in QUADRANTS])
    return table


def _abstains(found: Mapping[str, Any]) -> Table:
    right = ("abstains", "strict word", "where both are wrong", "faithful, strict", "faithful")
    table = new_table("Abstaining, and saying what the passages do", "condition", right=right)
    table.caption = (
        "Faithful (FaithEval): has the answer that the passages support; unknown where they support none; conflict "
        "where they support both. Strict: with the one word that is asked for, or without the other answer."
    )
    table.add_row(words_of(CLOSED_BOOK), *_abstention(found["closed_book"]), NONE, NONE)
    for name, one in _rows(found):
        table.add_row(words_of(name), *_abstention(one), *[cell(one["faithful"][p]) for p in ("strict", "non_strict")])
    return table


def _abstention(one: Mapping[str, Any]) -> list[str]:
    return [cell(one["abstains"][part]) for part in ("all", "strict", "neither")]


def _confidence(found: Mapping[str, Any]) -> Table:
    right = ("right answer", "original", "other", "own answer", "other − original", "surer answer right")
    table = new_table("Mean log-probability of a token of each answer, in nats", "condition", right=right)
    table.caption = (
        "Surer answer right: accuracy of the closed-book answer or the one with passages, whichever the model \
finds likelier (ClashEval)."
    )
    for name, one in (((CLOSED_BOOK, found["closed_book"])), *_rows(found)):
        sure = one["confidence"]
        cells = [sure["mean"][role] for role in ("gold", "original", "counter", "answer")]
        last = NONE if name == CLOSED_BOOK else cell(sure["surer_answer_right"])
        table.add_row(words_of(name), *map(mean_cell, [*cells, sure["counter_minus_original"]]), last)
    return table


def _groups(
    items: Sequence[ConflictItem], judged: Mapping[str, Mapping[str, Judgement]], base: str, shown: int
) -> Iterator[dict[str, Any]]:
    for part in QUADRANTS:
        mine = [one for one in items if quadrant_of(judged[one.id], base) == part]
        cases = [case(one, {"": judged[one.id]}) for one in mine[:shown]]
        yield {"title": WORDS[part], "count": len(mine), "cases": cases}


def case(item: ConflictItem, answers: Mapping[str, Mapping[str, Judgement]]) -> dict[str, Any]:
    """A question as the page shows it.

    Args:
        item: The question.
        answers: By model, of which one may be without a name, and by condition.
    """
    roles = {"right": item.answers, "original": item.original, "other": item.counter}
    said = [
        _said(f"{words_of(name)}{f', {model}' if model else ''}", name, mine[name])
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


def _said(who: str, condition: str, one: Judgement) -> dict[str, Any]:
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
