"""What a blend comes to: how often each set is drawn, how often that goes through it, and with how many tokens."""

# Dims in this file.
#   N samples   T samples of a set

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retro.qa.sample_layout import EncodedSample
from retro.sft.blend import Blend

# Numbers drawn at once; their arrays are 24 MB.
_AT_ONCE = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Share:
    """One set's part in the samples that are drawn."""

    wanted: float
    """Its weight, all weights adding up to 1."""
    achieved: float
    """Its part of the samples."""
    samples: int
    epochs: float
    """How often the samples go through the set."""
    tokens: int
    """Tokens of prompts and answers."""
    answer_tokens: int
    """Those that have a loss: answers with their end tokens."""


def shares(blend: Blend, sets: Sequence[Sequence[EncodedSample]], numbers_N: NDArray[np.int64]) -> list[Share]:
    """The part of each set in the samples of these numbers.

    Args:
        blend: Says which sample a number is.
        sets: Samples of each set, in the blend's order.
        numbers_N: Sample numbers, each as often as it is trained on.
    """
    times = [np.zeros(len(samples), dtype=np.int64) for samples in sets]
    for start in range(0, len(numbers_N), _AT_ONCE):
        sets_N, items_N = blend.draw(numbers_N[start : start + _AT_ONCE])
        for which, times_T in enumerate(times):
            times_T += np.bincount(items_N[sets_N == which], minlength=len(times_T))
    return [
        _share(wanted, samples, times_T, len(numbers_N))
        for wanted, samples, times_T in zip(blend.shares, sets, times, strict=True)
    ]


def _share(wanted: float, samples: Sequence[EncodedSample], times_T: NDArray[np.int64], total: int) -> Share:
    drawn = int(times_T.sum())
    answers = int(times_T @ np.array([len(one.answer) for one in samples], dtype=np.int64))
    prompts = int(times_T @ np.array([len(one.prompt) for one in samples], dtype=np.int64))
    return Share(
        wanted=wanted,
        achieved=drawn / total if total else 0.0,
        samples=drawn,
        epochs=drawn / len(samples),
        tokens=prompts + answers,
        answer_tokens=answers,
    )


def mixture_record(names: Iterable[str], found: Sequence[Share]) -> dict[str, dict[str, Any]]:
    """The shares by set, for report.json."""
    return {name: asdict(share) for name, share in zip(names, found, strict=True)}


def mixture_table(names: Sequence[str], found: Sequence[Share]) -> Iterator[str]:
    """The shares as lines of a table, for the log."""
    width = max(len("set"), *map(len, names))
    yield f"{'set':<{width}}  wanted  achieved    samples    epochs        tokens    of answers"
    for name, one in zip(names, found, strict=True):
        yield (
            f"{name:<{width}}  {one.wanted:6.3f}  {one.achieved:8.3f}  {one.samples:9,}  {one.epochs:8.3f}  "
            f"{one.tokens:12,}  {one.answer_tokens:12,}"
        )
