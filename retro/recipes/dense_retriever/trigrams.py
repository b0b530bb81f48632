"""Runs of three words: how much two texts have in common."""

from __future__ import annotations

from retro.index.bm25.postings import words_of

_GRAM = 3


def trigrams(text: str) -> frozenset[tuple[str, ...]]:
    """Runs of three words, or the words of a shorter text; without case and punctuation."""
    words = words_of(text)
    return frozenset(tuple(words[first : first + _GRAM]) for first in range(max(1, len(words) - _GRAM + 1)))


def shared_part(first: frozenset[tuple[str, ...]], second: frozenset[tuple[str, ...]]) -> float:
    """Part of the shorter text's trigrams that the other has, 0 to 1."""
    return len(first & second) / min(len(first), len(second))
