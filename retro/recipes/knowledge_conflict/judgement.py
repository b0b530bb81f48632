"""What an answer says: whether it is right, which of the two answers it has, whether it abstains or sees a conflict."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from retro.common.statistics import RIGHT
from retro.qa.answer_files import QuestionLine
from retro.qa.metrics.normalize import Rules, normalize_answer
from retro.qa.metrics.registry import METRICS
from retro.qa.metrics.words import chosen_option, lettered_option, verdict
from retro.qa.sentences import sentences
from retro.recipes.knowledge_conflict.config import PhrasesConfig
from retro.recipes.knowledge_conflict.entity_types import YES_NO
from retro.recipes.knowledge_conflict.items import SUPPORTS, ConflictItem
from retro.recipes.knowledge_conflict.quadrants import holds_answer

_CANNOT = re.compile(r"\b(?:can't|cannot)\b", re.IGNORECASE)
_NOT = re.compile(r"n't\b", re.IGNORECASE)

Matches = Callable[[str, Sequence[str], ConflictItem], bool | None]
"""Whether a text is one of some answers to a question; None where that is not known."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """An answer under a condition."""

    prediction: str
    right: bool | None
    """None: the right answer is not known, or cannot be compared, such as True with a sentence."""
    original: bool | None
    """Whether it has the original answer."""
    counter: bool | None
    """Whether it has the other one."""
    unknown: bool
    """Whether it says that there is no answer."""
    unknown_strict: bool
    """Whether it says so with the one word that is asked for."""
    conflict: bool
    """Whether it says that passages disagree."""
    conflict_strict: bool
    """Whether it says so with the one word that is asked for."""
    context_right: bool | None
    """Whether the answer that the passages support is right; None where they support none or both, or that is not
    known."""

    @property
    def record(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def matcher(metric: str, rules: Rules) -> Matches:
    """What compares answers, by a metric: half of its range or more is a match.

    Raises:
        ConfigError: There is no such metric.
    """
    found = METRICS.find(metric, "recipe.knowledge_conflict.metric")

    def matches(text: str, answers: Sequence[str], item: ConflictItem) -> bool | None:
        if metric == "accuracy" and not item.options:
            # A sentence has no truth value, though it may have the word no.
            answers = [one for one in answers if normalize_answer(one) in YES_NO]
        if not answers:
            return None
        asked = QuestionLine(
            id=item.id, question=item.question, answers=tuple(answers), document_ids=(), options=item.options
        )
        try:
            right = found.share(found.measure(text, asked, rules)) >= RIGHT
        except ValueError:
            # The answers are none that the metric compares with, such as True where there are options.
            return None
        return right and not (metric == "accuracy" and _contradicts_itself(text, item.options))

    return matches


def judge(item: ConflictItem, condition: str, prediction: str, matches: Matches, phrases: PhrasesConfig) -> Judgement:
    """What an answer says.

    Args:
        item: The question, with its answers.
        condition: Under which it was answered.
        prediction: The answer.
        matches: Compares answers.
        phrases: That say that there is no answer, or that passages disagree.
    """
    last, *before = _sentences_beside_answers(item, prediction)
    whole = {_plain(one) for one in (*phrases.unknown, *phrases.unknown_whole)}
    strict = {_plain(one) for one in phrases.unknown_strict}
    every = " ".join((*before[::-1], last))
    return Judgement(
        prediction=prediction,
        right=matches(prediction, item.answers, item),
        original=matches(prediction, item.original, item),
        counter=matches(prediction, item.counter, item),
        unknown=_has(last, phrases.unknown) or not whole.isdisjoint((last, *before)),
        unknown_strict=_has(last, phrases.unknown_strict) or not strict.isdisjoint((last, *before)),
        conflict=_has(every, phrases.conflict),
        conflict_strict=_has(every, phrases.conflict_strict),
        context_right=context_right(item, condition),
    )


def _sentences_beside_answers(item: ConflictItem, prediction: str) -> list[str]:
    """The sentences of an answer, the last one first, as phrases are compared with them: without the answers of the
    question, in which a phrase says nothing (`it was not covered`).

    With options it is the one that was chosen, as one sentence.
    """
    clear = item.options and not _contradicts_itself(prediction, item.options)
    chosen = chosen_option(prediction, item.options) if clear else None
    found = [item.options[chosen]] if chosen is not None else _sentences(prediction)
    answers = [_plain(one) for one in (*item.answers, *item.original, *item.counter)]
    longest = sorted(filter(None, answers), key=len, reverse=True)
    if _plain(prediction) in longest:
        return [""]
    return [_without(_plain(one), longest) for one in reversed(found)] or [""]


def _contradicts_itself(text: str, options: Sequence[str]) -> bool:
    """Whether an answer has the letter of one option and the text of another: it chooses neither."""
    number, rest = lettered_option(text, options)
    plain = [normalize_answer(one) for one in options]
    written = normalize_answer(rest)
    return number is not None and bool(written) and written in plain and written != plain[number]


def _sentences(text: str) -> list[str]:
    return [one for line in text.splitlines() for one in sentences(line)]


def _without(text: str, answers: Sequence[str]) -> str:
    left = f" {text} "
    for one in answers:
        left = left.replace(f" {one} ", "  ")
    return left.strip()


def _plain(text: str) -> str:
    """Normalized, with `n't` written out."""
    return normalize_answer(_NOT.sub(" not", _CANNOT.sub("can not", text.replace("’", "'"))))


def _has(text: str, phrases: Sequence[str]) -> bool:
    return any(f" {_plain(one)} " in f" {text} " for one in phrases)


def context_right(item: ConflictItem, condition: str) -> bool | None:
    """Whether the answer that the passages of a condition support is right."""
    side = {"original": item.original, "counter": item.counter}.get(SUPPORTS[condition], ())
    return _is_right(side[0], item) if side and item.answers else None


def _is_right(text: str, item: ConflictItem) -> bool | None:
    """Whether one written answer is the same as a right one."""
    if item.options:
        chosen = {chosen_option(one, item.options) for one in item.answers} - {None}
        return chosen_option(text, item.options) in chosen if chosen else None
    golds = [verdict(one) for one in item.answers]
    if None not in golds and all(len(one.split()) == 1 for one in item.answers):
        truth = verdict(text) if len(text.split()) == 1 else None
        return None if truth is None else truth in golds
    return any(normalize_answer(text) == normalize_answer(one) or holds_answer(text, [one]) for one in item.answers)
