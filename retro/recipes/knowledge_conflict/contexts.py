"""Passages that say nothing of the answer: of another question, and the question's own without the sentences that do.

Pure functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from retro.qa.question import Context
from retro.qa.sentences import sentence_pieces
from retro.recipes.knowledge_conflict.substitution import TRIES, mentions, names_answer


def irrelevant_passages(
    own: int, others: Sequence[Sequence[Context]], answers: Sequence[str], count: int, draw: np.random.Generator
) -> tuple[Context, ...]:
    """Passages of another question without any of the answers; none where no question has enough of them.

    Args:
        own: The question's place among `others`.
        others: Passages of all questions.
        answers: What none of them may have: the right answers, the original and the substituted ones.
        count: How many.
        draw: The question's random numbers.
    """
    for place in draw.choice(len(others), size=min(len(others), TRIES), replace=False):
        kept = [one for one in others[place] if not mentions([one], answers) and one not in others[own]]
        if place != own and len(kept) >= count:
            return tuple(kept[:count])
    return ()


def without_answers(
    passages: Sequence[Context], answers: Sequence[str]
) -> tuple[tuple[Context, ...], list[dict[str, Any]]]:
    """Passages without the sentences that have an answer; titles that have one are removed, and so are empty passages.

    Returns:
        What is left, and what was removed: `passage` (its place before), `from` (the text), `to` (empty), `times` (1).
    """
    kept, removed = [], list[dict[str, Any]]()
    for place, passage in enumerate(passages):
        pieces = list(sentence_pieces(passage.text))
        named = [names_answer(piece, answers) for piece in pieces]
        gone = [piece.strip() for piece, holds in zip(pieces, named, strict=True) if holds]
        title = "" if passage.title and names_answer(passage.title, answers) else passage.title
        gone += [] if title == passage.title else [passage.title]
        text = "".join(piece for piece, holds in zip(pieces, named, strict=True) if not holds).strip()
        removed += [{"passage": place, "from": text_gone, "to": "", "times": 1} for text_gone in gone]
        if text:
            kept.append(Context(title, text))
    return tuple(kept), removed
