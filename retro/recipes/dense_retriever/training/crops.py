"""Self-supervised pairs: two independent random crops of a text (Contriever, arXiv:2112.09118, section 3.1).

Contriever crops the tokens of its own tokenizer; here words are cropped, so that a crop is a text like any other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def generator(*numbers: int | str) -> np.random.Generator:
    """Random numbers of their own for a seed, a step and a row: they do not depend on what was drawn before."""
    digest = hashlib.sha256(" ".join(map(str, numbers)).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))


def span(length: int, smallest: float, largest: float, draws: tuple[float, float]) -> tuple[int, int]:
    """Where a crop begins and ends.

    Args:
        length: Words of the text, at least 1.
        smallest: Share of them in the shortest crop.
        largest: In the longest.
        draws: Two numbers from 0 up to 1, for its length and for its place.
    """
    share = smallest + (largest - smallest) * draws[0]
    taken = min(length, max(1, round(share * length)))
    first = int(draws[1] * (length - taken + 1))
    return first, first + taken


def without(words: Sequence[T], chance: float, draws: Sequence[float]) -> list[T]:
    """The words whose draw is at least `chance`; the first one, where that leaves none.

    Args:
        words: Of a crop.
        chance: Of each to be left out.
        draws: A number from 0 up to 1 for each.
    """
    kept = [word for word, draw in zip(words, draws, strict=True) if draw >= chance]
    return kept or list(words[:1])


def crop(words: Sequence[T], smallest: float, largest: float, chance: float, random: np.random.Generator) -> list[T]:
    """A random crop of `words`, some of them left out."""
    first, last = span(len(words), smallest, largest, (random.random(), random.random()))
    return without(words[first:last], chance, random.random(last - first).tolist())


def crop_pair(
    text: str, smallest: float, largest: float, chance: float, random: np.random.Generator
) -> tuple[str, str]:
    """Two crops of a text, independent of each other.

    Raises:
        ValueError: The text has no word.
    """
    words = text.split()
    if not words:
        raise ValueError("a text without words has no crop")
    first, second = (crop(words, smallest, largest, chance, random) for _ in range(2))
    return " ".join(first), " ".join(second)
