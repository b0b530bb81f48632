"""The comparison of two models as tables, and a page with questions that only one of them has right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from retro.common.terminal import Table
from retro.qa.question import Context
from retro.recipes.knowledge_conflict.compare import OUTCOMES, Side
from retro.recipes.knowledge_conflict.items import CLOSED_BOOK, ConflictItem
from retro.recipes.knowledge_conflict.judgement import Judgement
from retro.recipes.knowledge_conflict.page import case
from retro.recipes.knowledge_conflict.quadrants import QUADRANTS
from retro.recipes.knowledge_conflict.tables import WORDS, mean_cell, words_of
from retro.report.format import percent, signed_percent
from retro.report.render import render
from retro.report.tables import new_table

_CASES = 5


def tables(found: Mapping[str, Any]) -> list[Table]:
    """What changes: each outcome under each condition, and the quadrants."""
    made = [*(_outcome_table(found, outcome) for outcome in OUTCOMES), _moves_table(found), _quadrant_table(found)]
    return [*made, _confidence_table(found)] if found["confidence"] is not None else made


_COLUMNS = ("A", "B", "B − A", "both", "only A", "only B", "neither", "p")


def _outcome_table(found: Mapping[str, Any], outcome: str) -> Table:
    table = new_table(f"{OUTCOMES[outcome].capitalize()}, in %", "condition", right=_COLUMNS)
    if outcome == "right":
        table.caption = (
            f"A: {_asked(found['a'])}; B: {_asked(found['b'])}; p: McNemar's exact test of only A and only B"
        )
    for name, one in found["conditions"].items():
        table.add_row(words_of(name), *_cells(one[outcome]))
    return table


def _asked(side: Mapping[str, Any]) -> str:
    return f"{side['name']}, asked as {side['kind']}"


def _quadrant_table(found: Mapping[str, Any]) -> Table:
    title = f"Quadrants of closed-book and {words_of(found['quadrants_of'])}, in %"
    table = new_table(title, "quadrant", right=_COLUMNS)
    for name in QUADRANTS:
        table.add_row(WORDS[name], *_cells(found["quadrants"][name]))
    return table


def _moves_table(found: Mapping[str, Any]) -> Table:
    table = new_table("From the quadrants of A (rows) to those of B", "", right=[WORDS[one] for one in QUADRANTS])
    for name, row in found["quadrants"]["moves"].items():
        table.add_row(WORDS[name], *[str(row[one]) for one in QUADRANTS])
    return table


def _confidence_table(found: Mapping[str, Any]) -> Table:
    title = "Change of mean log-probability of a token, B − A, in nats"
    table = new_table(title, "condition", right=("own answer", "other against original answer"))
    for name, one in found["confidence"].items():
        table.add_row(words_of(name), *map(mean_cell, one.values()))
    return table


def _cells(one: Mapping[str, Any]) -> list[str]:
    if one["p"] is None:
        return ["–"] * len(_COLUMNS)
    change = one["difference"]
    low, high = (signed_percent(change[end]).removesuffix(" %") for end in ("low", "high"))
    shares = [percent(one[side]["share"]).removesuffix(" %") for side in ("a", "b")]
    shift = f"{signed_percent(change['mean']).removesuffix(' %')} ({low} to {high})"
    return [*shares, shift, *[str(one["table"][part]) for part in one["table"]], f"{one['p']:.2g}"]


def page(found: Mapping[str, Any], a: Side, b: Side) -> str:
    """The page: the tables, and questions that one of both has right."""
    lede = (
        f"{found['items']:,} questions under the same conditions, answered by A ({a.name}) and B ({b.name}). "
        f"Differences have {percent(found['intervals']['confidence'], 0)} bootstrap intervals over questions."
    )
    groups = [
        _group(a, b, name, title, first)
        for name in found["conditions"]
        for title, first in (("only A is right", True), ("only B is right", False))
    ]
    shown = [one for one in groups if one["count"]]
    return render("conflicts", name="What changes", lede=lede, tables=tables(found), charts=[], groups=shown)


def _group(a: Side, b: Side, condition: str, title: str, first: bool) -> dict[str, Any]:
    cases, count = list[dict[str, Any]](), 0
    for place, line in enumerate(a.items):
        one, other = a.judged(place), b.judged(place)
        if condition not in one or (one[condition].right, other[condition].right) != (first, not first):
            continue
        count += 1
        if len(cases) < _CASES:
            cases.append(case(_item(line, condition), {"A": _only(one, condition), "B": _only(other, condition)}))
    return {"title": f"{words_of(condition)}: {title}", "count": count, "cases": cases}


def _only(judged: Mapping[str, Judgement], condition: str) -> dict[str, Judgement]:
    return {name: judged[name] for name in dict.fromkeys((CLOSED_BOOK, condition))}


def _item(line: Mapping[str, Any], condition: str) -> ConflictItem:
    passages = tuple(Context(one["title"], one["text"]) for one in line["passages"].get(condition, ()))
    return ConflictItem(
        id=line["id"],
        question=line["question"],
        answers=tuple(line["answers"]),
        original=tuple(line["original"]),
        counter=tuple(line["counter"]),
        conditions={condition: passages} if passages else {},
    )
