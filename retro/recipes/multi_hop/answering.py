"""Full answers by the teacher, at temperature 0: of each sub-question from its paragraph, then of the question.

What comes back is checked: the form, the gold answer where there is one, and that an answer is given where the
paragraph holds one and only there. An item that fails is dropped, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from retro.qa.formats.item import BadItemError
from retro.qa.metrics.normalize import normalize_answer
from retro.qa.metrics.words import substring_match
from retro.recipes.multi_hop.items import MultiHopItem, final_answer, long_answer, long_answer_parts
from retro.recipes.multi_hop.prompts import (
    ANSWER_FIELDS,
    FINAL_FIELDS,
    AnswerKind,
    Texts,
    answer_prompt,
    final_prompt,
    request_of,
)
from retro.recipes.multi_hop.replies import fields_of_completion
from retro.teacher.request import Completion
from retro.teacher.teacher import Teacher

Golds = tuple[tuple[str, ...], ...]
"""Answers of which one has to be said; each is all of its spans."""


@dataclass(frozen=True, kw_only=True)
class OpenItem:
    """An item without its full answers."""

    item: MultiHopItem
    """Its long answers and its final answer are empty."""
    kind: AnswerKind = "plain"
    golds: tuple[Golds, ...] = ()
    """Gold answers of each sub-question; empty, here or for one of them: none are known."""
    final_golds: Golds = ()
    """Gold answers of the question itself, where it is multi-hop."""
    with_reasoning: bool = False
    """Whether the final answer of a single-hop item has its reasoning before it."""


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """An item that failed a check."""

    item: MultiHopItem
    reason: str
    problem: str
    """What was found."""


def answer_all(
    teacher: Teacher, texts: Texts, items: Sequence[OpenItem], *, max_tokens: int, what: str, require_gold: bool = True
) -> Iterator[MultiHopItem | Dropped]:
    """The items with full answers, in order, or why they are dropped.

    Args:
        teacher: Asked twice: for all sub-questions, then for all multi-hop questions whose sub-questions are answered.
        texts: The prompts.
        items: What is to be answered.
        max_tokens: Longest reply.
        what: The work, for progress lines.
        require_gold: Whether the answers are checked against what is known of them.

    Raises:
        RetroError: As the teacher says.
    """
    found = list(_sub_answers(teacher, texts, items, max_tokens, f"{what}: sub-questions", require_gold))
    asked = [one for one in found if isinstance(one, OpenItem) and one.item.multihop]
    requests = [
        request_of(final_prompt(texts, one.item.question, _facts(one.item)), max_tokens=max_tokens) for one in asked
    ]
    replies = teacher.complete_all(requests, what=f"{what}: final answers")
    for one in found:
        if isinstance(one, Dropped):
            yield one
        elif one.item.multihop:
            yield _finished(texts, one, next(replies), require_gold)
        else:
            yield _single(one)


def _sub_answers(
    teacher: Teacher, texts: Texts, items: Sequence[OpenItem], max_tokens: int, what: str, require_gold: bool
) -> Iterator[OpenItem | Dropped]:
    """The items with their sub-questions answered. Those that are answered already are left as they are."""
    asked = [
        request_of(answer_prompt(texts, one.kind, sub.question, sub.paragraph), max_tokens=max_tokens)
        for one in items
        for sub in one.item.sub_questions
    ]
    replies = teacher.complete_all(asked, what=what)
    for one in items:
        # All of an item's replies are taken, whatever the first says.
        said = [next(replies) for _ in one.item.sub_questions]
        try:
            answers = [_sub_answer(texts, one, place, reply, require_gold) for place, reply in enumerate(said)]
        except BadItemError as error:
            yield Dropped(item=one.item, reason=f"sub-question: {error.reason}", problem=error.problem)
            continue
        subs = tuple(replace(sub, long_answer=full) for sub, full in zip(one.item.sub_questions, answers, strict=True))
        yield replace(one, item=replace(one.item, sub_questions=subs))


def _sub_answer(texts: Texts, one: OpenItem, place: int, reply: Completion, require_gold: bool) -> str:
    """The long answer that a reply is.

    Raises:
        BadItemError: It has another form, or fails a check.
    """
    sub = one.item.sub_questions[place]
    found = fields_of_completion(reply, ANSWER_FIELDS, quoted=f"{sub.paragraph} {sub.question}")
    if require_gold:
        none = _same(found["Answer"], texts.no_answer)
        if none != sub.unanswerable:
            reason = "no_answer_found" if none else "answered_without_an_answer"
            raise BadItemError(reason, f"is answered {found['Answer'][:60]!r}: {sub.question[:60]!r}")
        golds = one.golds[place] if one.golds and not sub.unanswerable else ()
        said = found["Answer"]
        # Of yes and no the first word counts: the other may stand further on.
        _require_gold(said.split()[0] if one.kind == "yes_no" else said, golds)
    return long_answer(found["Reasoning"], found["Answer"])


def _finished(texts: Texts, one: OpenItem, reply: Completion, require_gold: bool) -> MultiHopItem | Dropped:
    quoted = " ".join([one.item.question, *(sub.long_answer for sub in one.item.sub_questions)])
    try:
        found = fields_of_completion(reply, FINAL_FIELDS, quoted=quoted)
        said = found["Answer"]
        unknown = normalize_answer(texts.unknown) in normalize_answer(said)
        if require_gold:
            # Where one sub-question has no answer, the whole has none.
            if unknown != any(sub.unanswerable for sub in one.item.sub_questions):
                reason = "no_answer_found" if unknown else "answered_without_an_answer"
                raise BadItemError(reason, f"is answered {said[:60]!r}")
            _require_gold(said, one.final_golds)
        final = final_answer(found["Summary"], said)
    except BadItemError as error:
        return Dropped(item=one.item, reason=f"final answer: {error.reason}", problem=error.problem)
    answer = one.item.answer or ("" if unknown else said)
    return replace(one.item, final_answer=final, answer=answer, meta={**one.item.meta, "reasoning": found["Reasoning"]})


def _single(one: OpenItem) -> MultiHopItem:
    reasoning, answer = long_answer_parts(one.item.sub_questions[0].long_answer)
    return replace(one.item, final_answer=f"{reasoning} {answer}" if one.with_reasoning else answer)


def _facts(item: MultiHopItem) -> list[tuple[str, str]]:
    return [(one.question, long_answer_parts(one.long_answer)[1]) for one in item.sub_questions]


def _require_gold(answer: str, golds: Golds) -> None:
    """Check that an answer says all spans of a gold answer, as whole words after SQuAD's normalisation.

    Raises:
        BadItemError: It does not.
    """
    if golds and not any(all(substring_match(answer, [span]) for span in gold) for gold in golds):
        wanted = " / ".join(", ".join(gold) for gold in golds)
        raise BadItemError("gold_answer_not_said", f"is answered {answer[:60]!r}, without {wanted[:60]!r}")


def _same(answer: str, phrase: str) -> bool:
    return normalize_answer(answer) == normalize_answer(phrase)
