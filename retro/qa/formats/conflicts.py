"""Questions with passages that contradict memory or one another: ConflictQA, NQ-Swap and FaithEval.

Each reader gives a `Conflict`: two answers that are at odds, and the passages that support each. `retro sft convert`
makes questions of them; the recipe knowledge_conflict asks them under each of the conditions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from retro.qa.formats.item import BadItemError, Converted, Item, Options, id_of, optional_text, text_of, texts_of
from retro.qa.metrics.words import substring_match
from retro.qa.question import Context, Question


@dataclass(frozen=True, kw_only=True)
class Conflict:
    """A question of which two answers are at odds."""

    id: str
    question: str
    answers: tuple[str, ...] = ()
    """The right ones; empty where the file does not say."""
    original: tuple[str, ...] = ()
    """What is believed without the other passages: the answer before it was replaced, or that of a model's memory."""
    counter: tuple[str, ...] = ()
    """What the other passages say instead."""
    supporting: tuple[Context, ...] = ()
    """Passages that say the original answer."""
    opposing: tuple[Context, ...] = ()
    """Passages that say the other one."""
    contradicting: tuple[Context, ...] = ()
    """Passages that say both, and so contradict one another."""
    silent: tuple[Context, ...] = ()
    """Passages about the question that hold no answer."""
    options: tuple[str, ...] = ()
    """Choices, where the question has any."""
    labels: tuple[tuple[str, str], ...] = ()
    """What kind of question it is: names and values."""


ReadConflict = Callable[[Item, str], Conflict]
"""From an item and its number."""


def read_conflictqa(item: Item, number: str) -> Conflict:
    """An item of ConflictQA (Xie et al. 2024, arXiv:2305.13300), with entities (PopQA) or sentences (StrategyQA).

    `parametric_memory` is what a model wrote of itself for `memory_answer`; `counter_memory` was written for
    `counter_answer`. The evidence aligned to each is a second passage.
    """
    sides = {
        side: tuple(Context("", text_of(item, name, "passage")) for name in (side, f"{side}_aligned_evidence"))
        for side in ("parametric_memory", "counter_memory")
    }
    popularity = item.get("popularity")
    known = isinstance(popularity, int | float) and not isinstance(popularity, bool)
    return Conflict(
        id=id_of(item, number, "id"),
        question=text_of(item, "question", "question"),
        answers=texts_of(item, "ground_truth"),
        original=(text_of(item, "memory_answer", "answer"),),
        counter=(text_of(item, "counter_answer", "answer"),),
        supporting=sides["parametric_memory"],
        opposing=sides["counter_memory"],
        labels=(("popularity", str(popularity)),) if known else (),
    )


def read_nq_swap(item: Item, number: str) -> Conflict:
    """An item of NQ-Swap (Longpre et al. 2021, arXiv:2109.05052): a passage before and after a substitution."""
    answers = texts_of(item, "org_answer")
    return Conflict(
        id=id_of(item, number, "id", "uid"),
        question=text_of(item, "question", "question"),
        answers=answers,
        original=answers,
        counter=texts_of(item, "sub_answer"),
        supporting=(Context("", text_of(item, "org_context", "passage")),),
        opposing=(Context("", text_of(item, "sub_context", "passage")),),
    )


def read_faitheval_unanswerable(item: Item, number: str) -> Conflict:
    """An item of FaithEval's unanswerable subset (Ming et al. 2025, arXiv:2410.03727): the answer was taken out."""
    answers = texts_of(item, "answers") if item.get("answers") else ()
    return Conflict(
        id=id_of(item, number, "qid", "id"),
        question=text_of(item, "question", "question"),
        answers=answers,
        original=answers,
        silent=(Context("", text_of(item, "context", "passage")),),
    )


def read_faitheval_inconsistent(item: Item, number: str) -> Conflict:
    """An item of FaithEval's inconsistent subset: its context has documents that contradict one another."""
    answers = texts_of(item, "answers")
    if len(answers) < 2:
        raise BadItemError(
            "one_answer", f"has the single answer {answers[0]!r} in 'answers', needs those of both sides"
        )
    return Conflict(
        id=id_of(item, number, "qid", "id"),
        question=text_of(item, "question", "question"),
        original=answers[:1],
        counter=answers[1:],
        contradicting=(Context("", text_of(item, "context", "passage")),),
    )


def read_faitheval_counterfactual(item: Item, number: str) -> Conflict:
    """An item of FaithEval's counterfactual subset: a question with choices, and a context for a wrong one."""
    choices = item.get("choices")
    labels, texts = ((choices.get(name) if isinstance(choices, Mapping) else ()) or () for name in ("label", "text"))
    if not _are_texts(labels) or not _are_texts(texts) or len(labels) != len(texts):
        raise BadItemError("no_options", f"has {str(choices)[:60]!r} in 'choices', needs the lists label and text")
    key = text_of(item, "answerKey", "answer")
    if key not in labels:
        raise BadItemError("unknown_option", f"has the answerKey {key!r}, needs one of {', '.join(labels)}")
    answer = optional_text(item, "answer") or texts[labels.index(key)]
    return Conflict(
        id=id_of(item, number, "id", "qid"),
        question=text_of(item, "question", "question"),
        counter=(answer,),
        opposing=(Context("", text_of(item, "context", "passage")),),
        options=tuple(texts),
    )


def _are_texts(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) and one.strip() for one in value)


READERS: Mapping[str, ReadConflict] = {
    "conflictqa": read_conflictqa,
    "nq_swap": read_nq_swap,
    "faitheval_unanswerable": read_faitheval_unanswerable,
    "faitheval_inconsistent": read_faitheval_inconsistent,
    "faitheval_counterfactual": read_faitheval_counterfactual,
}
"""By the name of the format."""


def conflictqa(item: Item, number: str, options: Options) -> list[Converted]:
    """The question with its right answers, and the passages of both sides."""
    return _converted(read_conflictqa(item, number))


def nq_swap(item: Item, number: str, options: Options) -> list[Converted]:
    """The question with its right answers, and the passage before and after the answer was replaced."""
    return _converted(read_nq_swap(item, number))


def faitheval_unanswerable(item: Item, number: str, options: Options) -> list[Converted]:
    """A question that its passage does not answer."""
    return _converted(read_faitheval_unanswerable(item, number))


def faitheval_inconsistent(item: Item, number: str, options: Options) -> list[Converted]:
    """A question with the answers of both sides, and the passage that has both."""
    return _converted(read_faitheval_inconsistent(item, number))


def faitheval_counterfactual(item: Item, number: str, options: Options) -> list[Converted]:
    """A question with choices; right is the one that the passage supports, whatever is true."""
    return _converted(read_faitheval_counterfactual(item, number))


def _converted(found: Conflict) -> list[Converted]:
    contexts = found.supporting + found.opposing + found.contradicting + found.silent
    # What the passages say is right where nothing else is known of it.
    answers = found.answers or found.original + found.counter
    question = Question(
        id=found.id,
        question=found.question,
        answers=() if found.silent else answers,
        contexts=contexts,
        options=found.options,
        unanswerable=bool(found.silent),
    )
    if found.silent:
        return [Converted(question)]
    gold = [place for place, one in enumerate(contexts) if substring_match(f"{one.title} {one.text}", answers)]
    return [Converted(question, gold=gold)]
