"""What is asked, what was found for it, and what that is worth, question by question."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from retro.common.statistics import estimate, p_value
from retro.recipes.dense_retriever.evaluation.ranking import has_answer, ndcg, normalized_words, recall, unit_values
from retro.recipes.knowledge_conflict.metrics import Intervals

Values = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question, and what answers it. A unit of which nothing is known is None, and is not judged."""

    id: str
    question: str
    relevant: Mapping[str, int] | None = None
    """Grades of passages by their ids, 0 or more."""
    documents: frozenset[str] | None = None
    """Names of documents that answer it."""
    answers: tuple[str, ...] = ()
    """Answer strings."""

    @property
    def without_relevant(self) -> bool:
        """Whether passages are marked, and none of them as relevant: whatever is found, it counts as 0."""
        return self.relevant is not None and not any(self.relevant.values())


@dataclass(frozen=True, kw_only=True)
class Found:
    """What was found for a question, best first."""

    ids: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    answers: tuple[bool, ...] = ()
    """Whether each passage holds an answer string."""
    best: Mapping[str, str] = field(default_factory=dict)
    """Title and text of the first one, for people."""


def found_of(passages: Sequence[Any], answers: Sequence[str], n: int, leave_out: str | None) -> Found:
    """What was found, judged by answer strings while the texts are at hand.

    Args:
        passages: Best first, as a `PassageSearch` gives them.
        answers: Answer strings of the question.
        n: Most passages that are kept.
        leave_out: An id that does not count as found.
    """
    kept = [one for one in passages if one.document_id != leave_out][:n]
    wanted = [normalized_words(one) for one in answers]
    return Found(
        ids=tuple(one.document_id for one in kept),
        scores=tuple(float(one.score) for one in kept),
        answers=tuple(has_answer(normalized_words(one.text), wanted) for one in kept) if wanted else (),
        best={"title": kept[0].title, "text": kept[0].text} if kept else {},
    )


def judge(
    asked: Sequence[Asked], found: Sequence[Found], at: Sequence[int], document_of: Callable[[str], str]
) -> list[Values]:
    """The values of each question; names as in `ranking`.

    Args:
        asked: The questions.
        found: What was found for each.
        at: Numbers of passages among which one has to count, ascending.
        document_of: The document that a passage of an id was cut from.

    Raises:
        ValueError: A passage was found twice for a question.
    """
    # By their places: ids are the files', and two files may have the same.
    graded = {str(place): one.relevant for place, one in enumerate(asked) if one.relevant is not None}
    gains = ndcg({str(place): what.ids for place, what in enumerate(found)}, graded)
    values: list[Values] = []
    for place, (one, what) in enumerate(zip(asked, found, strict=True)):
        mine: Values = {}
        if one.relevant is not None:
            right = {name for name, grade in one.relevant.items() if grade > 0}
            mine |= unit_values("segment", [name in right for name in what.ids], at)
            mine |= {"ndcg10": gains[str(place)], f"recall{at[-1]}": recall(what.ids, one.relevant, at[-1])}
        if one.documents is not None:
            mine |= unit_values("document", [document_of(name) in one.documents for name in what.ids], at)
        if one.answers:
            mine |= unit_values("answer", what.answers, at)
        values.append(mine)
    return values


def means(values: Sequence[Values], intervals: Intervals) -> dict[str, dict[str, float]]:
    """Mean and bootstrap interval of each metric, over the questions that have it."""
    return {name: _rounded(estimate(mine, **_how(intervals))) for name, mine in _by_metric(values).items()}


def differences(a: Sequence[Values], b: Sequence[Values], intervals: Intervals) -> dict[str, dict[str, Any]]:
    """b - a, question by question, of each metric that a question has in both.

    Returns:
        By metric: `a` and `b` (means), `mean`, `low`, `high` and `count` of the difference, `test` and `p`: McNemar's
        exact test where values are 0 or 1, else sign flips.
    """
    made = {}
    for name in _by_metric(a):
        pairs = [(one[name], other[name]) for one, other in zip(a, b, strict=True) if name in one and name in other]
        if pairs:
            mine, theirs = ([pair[side] for pair in pairs] for side in (0, 1))
            changes = [other - one for one, other in pairs]
            test, p = p_value(mine, theirs, intervals.seed)
            both = {"a": round(sum(mine) / len(mine), 6), "b": round(sum(theirs) / len(theirs), 6)}
            made[name] = both | _rounded(estimate(changes, **_how(intervals))) | {"test": test, "p": round(p, 6)}
    return made


def _by_metric(values: Sequence[Values]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for one in values:
        for name, value in one.items():
            found.setdefault(name, []).append(value)
    return found


def _how(intervals: Intervals) -> dict[str, Any]:
    return {"samples": intervals.samples, "confidence": intervals.confidence, "seed": intervals.seed}


def _rounded(found: Any) -> dict[str, float]:
    return {name: round(value, 6) for name, value in asdict(found).items()}
