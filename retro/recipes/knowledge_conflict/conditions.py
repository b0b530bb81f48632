"""The metrics of every condition, from judged answers and log-probabilities."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from retro.recipes.knowledge_conflict import metrics
from retro.recipes.knowledge_conflict.items import CLOSED_BOOK, CONDITIONS, SUPPORTS, ConflictItem
from retro.recipes.knowledge_conflict.judgement import Judgement
from retro.recipes.knowledge_conflict.metrics import Intervals
from retro.recipes.knowledge_conflict.quadrants import QUADRANTS, Quadrant, quadrant

Judged = Mapping[str, Mapping[str, Judgement]]
"""By item and condition, closed-book among them."""
Confidence = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""By item, condition and role: `sum`, `mean` and `tokens` of a candidate."""
ROLES = ("gold", "original", "counter", "answer")


def conflict_metrics(
    items: Sequence[ConflictItem], judged: Judged, sure: Confidence, intervals: Intervals
) -> dict[str, Any]:
    """All metrics.

    Args:
        items: The questions.
        judged: Their answers.
        sure: Log-probabilities; empty: not measured.
        intervals: How intervals are made.
    """
    base = base_condition(items)
    of_item = {one.id: quadrant_of(judged[one.id], base) for one in items}
    prior = [judged[one.id][CLOSED_BOOK] for one in items]
    conditions = {}
    for name in CONDITIONS:
        mine = [one.id for one in items if name in one.conditions]
        if mine:
            found = _condition(name, mine, judged, of_item, intervals)
            conditions[name] = found | {"confidence": _confidence(name, mine, judged, of_item, sure, intervals)}
    pairs = [(memory, one) for item in items for memory, one in _one_sided(judged[item.id])]
    known = [(judged[one.id][CLOSED_BOOK].right, judged[one.id][base].right) for one in items if base in judged[one.id]]
    return {
        "items": len(items),
        "quadrants_of": base,
        "quadrants": metrics.quadrant_table([one for one, _ in known], [one for _, one in known], intervals),
        "closed_book": {
            "right": metrics.known_share([one.right for one in prior], intervals),
            "original": metrics.known_share([one.original for one in prior], intervals),
            "abstains": metrics.abstentions(prior, [of_item[one.id] for one in items], intervals),
            "confidence": _confidence(CLOSED_BOOK, [one.id for one in items], judged, of_item, sure, intervals),
        },
        "conditions": conditions,
        "clash": metrics.clash(
            [memory.right for memory, _ in pairs],
            [one.context_right for _, one in pairs],
            [one.right for _, one in pairs],
            intervals,
        ),
        "intervals": {"confidence": intervals.confidence, "resamples": intervals.samples, "seed": intervals.seed},
    }


def base_condition(items: Sequence[ConflictItem]) -> str:
    """The condition that quadrants are of: the passages as they are, else the first that there is."""
    return next((name for name in CONDITIONS if any(name in one.conditions for one in items)), CLOSED_BOOK)


def quadrant_of(answers: Mapping[str, Judgement], base: str) -> Quadrant | None:
    """The quadrant of a question; None where it lacks the condition, or what is right is not known."""
    return _own_quadrant(answers[CLOSED_BOOK].right, answers[base].right if base in answers else None)


def _one_sided(answers: Mapping[str, Judgement]) -> list[tuple[Judgement, Judgement]]:
    """Closed-book answer and answer, for each condition whose passages support one answer."""
    memory = answers[CLOSED_BOOK]
    return [(memory, one) for name, one in answers.items() if SUPPORTS[name] in ("original", "counter")]


def _condition(
    name: str, mine: Sequence[str], judged: Judged, of_item: Mapping[str, Quadrant | None], intervals: Intervals
) -> dict[str, Any]:
    given, memory = [judged[one][name] for one in mine], [judged[one][CLOSED_BOOK] for one in mine]
    before, after = [one.right for one in memory], [one.right for one in given]
    inside = [of_item[one] for one in mine]
    own = [_own_quadrant(one, other) for one, other in zip(before, after, strict=True)]
    return {
        "items": len(mine),
        "supports": SUPPORTS[name],
        "right": metrics.known_share(after, intervals),
        "original": metrics.known_share([one.original for one in given], intervals),
        "counter": metrics.known_share([one.counter for one in given], intervals),
        "quadrants": metrics.quadrant_table(before, after, intervals),
        "right_inside": {
            part: metrics.known_share(
                [right for right, its in zip(after, inside, strict=True) if its == part], intervals
            )
            for part in QUADRANTS
        },
        "flips": metrics.flips(before, after, intervals),
        "abstains": metrics.abstentions(given, own, intervals),
        "faithful": metrics.faithful(given, SUPPORTS[name], intervals),
        **_sides(name, memory, given, intervals),
    }


def _own_quadrant(memory: bool | None, context: bool | None) -> Quadrant | None:
    return None if memory is None or context is None else quadrant(memory, context)


def _sides(name: str, memory: Sequence[Judgement], given: Sequence[Judgement], intervals: Intervals) -> dict[str, Any]:
    """Which of the two answers was taken, for passages that support one or both."""
    found: dict[str, Any] = {}
    if SUPPORTS[name] in ("counter", "both"):
        known = [one for one, prior in zip(given, memory, strict=True) if prior.original]
        found["memorisation_ratio"] = {
            part: metrics.memorisation_ratio([one.original for one in some], [one.counter for one in some], intervals)
            for part, some in (("all", given), ("known", known))
        }
    if SUPPORTS[name] in ("original", "counter"):
        before, after = [one.right for one in memory], [one.right for one in given]
        found["clash"] = metrics.clash(before, [one.context_right for one in given], after, intervals)
    return found


def _confidence(
    name: str,
    mine: Sequence[str],
    judged: Judged,
    of_item: Mapping[str, Quadrant | None],
    sure: Confidence,
    intervals: Intervals,
) -> dict[str, Any] | None:
    """Log-probabilities of the candidates, and of the model's own answer by quadrant; None: not measured."""
    if not sure:
        return None
    scored = [sure[one].get(name, {}) for one in mine]
    own = [_value(one, "answer") for one in scored]
    closed = [_value(sure[one].get(CLOSED_BOOK, {}), "answer") for one in mine]
    sides = [(_value(one, "counter"), _value(one, "original")) for one in scored]
    before, after = ([judged[one][which].right for one in mine] for which in (CLOSED_BOOK, name))
    return {
        **{
            unit: {role: metrics.mean(_numbers(_value(one, role, unit) for one in scored), intervals) for role in ROLES}
            for unit in ("mean", "sum")
        },
        "counter_minus_original": metrics.mean(
            [one - other for one, other in sides if one is not None and other is not None], intervals
        ),
        "answer_by_quadrant": {
            part: metrics.mean(_numbers(v for v, one in zip(own, mine, strict=True) if of_item[one] == part), intervals)
            for part in QUADRANTS
        },
        "surer_answer_right": metrics.surer_right(before, after, closed, own, intervals),
    }


def _value(scored: Mapping[str, Any], role: str, unit: str = "mean") -> float | None:
    """A log-probability; None where the candidate was not scored."""
    found: float | None = scored.get(role, {}).get(unit)
    return found


def _numbers(values: Iterable[float | None]) -> list[float]:
    return [one for one in values if one is not None]
