"""What the passages held, whatever the model made of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from retro.evaluate.rules import golds_of, normalize_answer
from retro.qa.answer_files import Answer
from retro.qa.question import PassageLike


def answer_in_passages(answer: Answer) -> bool:
    """Whether any gold answer stands, as whole words, in the title or text of any passage."""
    return any(_contains(f"{p.title} {p.text}", gold) for p in answer.passages for gold in golds_of(answer.answers))


def _contains(text: str, gold: str) -> bool:
    short = normalize_answer(gold)
    return f" {short} " in f" {normalize_answer(text)} " if short else gold.strip() in text


def document_found(passages: Sequence[PassageLike], document_ids: Collection[str], k: int) -> bool:
    """Whether one of the documents is among the first k passages, by id or by title."""
    return any(p.document_id in document_ids or p.title in document_ids for p in passages[:k])
