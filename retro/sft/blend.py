"""Several question sets mixed by weight: which item is training sample number n, and how often each set is drawn.

A pure function of the number, so that any process can fetch any sample and a resumed run continues exactly.
Sets take turns in a cycle whose shares match the weights; within a set, each epoch is its own shuffle.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retro.qa.sample_layout import EncodedSample

# Dims in this file.
#   N sample numbers   T samples of one cycle


# Bounds of the cycle: long enough for a set's smallest share to be right to 5%, short enough to stay under 2
# MB.
_SHORTEST_CYCLE, _LONGEST_CYCLE, _DRAWS_OF_SMALLEST = 1_000, 200_000, 20


class Blend:
    """A weighted mixture of finite sets, continuing for ever."""

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], seed: int) -> None:
        if len(sizes) != len(weights) or not sizes:
            raise ValueError(f"{len(sizes)} sizes and {len(weights)} weights")
        if min(sizes) < 1 or min(weights) <= 0:
            raise ValueError(f"sizes {list(sizes)} and weights {list(weights)} must be positive")
        self.sizes = tuple(sizes)
        self.shares = tuple(weight / sum(weights) for weight in weights)
        self.seed = seed
        self._cycle_T = _cycle(self.shares)
        self._turn_T = _turns(self._cycle_T)
        self._per_cycle = np.bincount(self._cycle_T, minlength=len(sizes))
        self._shuffled = lru_cache(maxsize=64)(self._shuffle)

    def draw(self, numbers_N: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Set and item of each sample number.

        Args:
            numbers_N: Sample numbers, 0 and up without end.

        Returns:
            [N] set, and [N] item in that set.
        """
        cycles_N, places_N = np.divmod(numbers_N, len(self._cycle_T))
        sets_N = self._cycle_T[places_N]
        draws_N = cycles_N * self._per_cycle[sets_N] + self._turn_T[places_N]
        sizes = np.array(self.sizes, dtype=np.int64)
        epochs_N, ranks_N = np.divmod(draws_N, sizes[sets_N])
        items_N = np.empty_like(draws_N)
        for which, epoch in np.unique(np.stack([sets_N, epochs_N], axis=1), axis=0).tolist():
            mine = (sets_N == which) & (epochs_N == epoch)
            items_N[mine] = self._shuffled(which, epoch)[ranks_N[mine]]
        return sets_N, items_N

    def counts(self, samples: int) -> list[int]:
        """How many of the first `samples` samples come from each set: what the weights achieved."""
        cycles, rest = divmod(samples, len(self._cycle_T))
        tail = np.bincount(self._cycle_T[:rest], minlength=len(self.sizes))
        counts: list[int] = (cycles * self._per_cycle + tail).tolist()
        return counts

    def _shuffle(self, which: int, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng((self.seed, which, epoch)).permutation(self.sizes[which])


def _cycle(shares: Sequence[float]) -> NDArray[np.int64]:
    """The order in which sets take turns: the k-th of a set's n turns is at (k + 1/2) / n of the
    cycle."""
    length = min(_LONGEST_CYCLE, max(_SHORTEST_CYCLE, math.ceil(_DRAWS_OF_SMALLEST / min(shares))))
    counts = [max(1, round(share * length)) for share in shares]
    if len(counts) == 1:
        counts = [1]
    times = np.concatenate([(np.arange(count) + 0.5) / count for count in counts])
    sets = np.repeat(np.arange(len(counts)), counts)
    return sets[np.argsort(times, kind="stable")].astype(np.int64)


def _turns(cycle_T: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often a place's set had its turn before in the cycle."""
    turns_T = np.empty_like(cycle_T)
    for which in np.unique(cycle_T):
        mine = cycle_T == which
        turns_T[mine] = np.arange(int(mine.sum()))
    return turns_T


# Dims in this file.
#   N samples   T samples of a set


# Numbers drawn at once; their arrays are 24 MB.
_AT_ONCE = 1_000_000


@dataclass(frozen=True, kw_only=True)
class SetShare:
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


def shares(blend: Blend, sets: Sequence[Sequence[EncodedSample]], numbers_N: NDArray[np.int64]) -> list[SetShare]:
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


def _share(wanted: float, samples: Sequence[EncodedSample], times_T: NDArray[np.int64], total: int) -> SetShare:
    drawn = int(times_T.sum())
    answers = int(times_T @ np.array([len(one.answer) for one in samples], dtype=np.int64))
    prompts = int(times_T @ np.array([len(one.prompt) for one in samples], dtype=np.int64))
    return SetShare(
        wanted=wanted,
        achieved=drawn / total if total else 0.0,
        samples=drawn,
        epochs=drawn / len(samples),
        tokens=prompts + answers,
        answer_tokens=answers,
    )


def mixture_record(names: Iterable[str], found: Sequence[SetShare]) -> dict[str, dict[str, Any]]:
    """The shares by set, for report.json."""
    return {name: asdict(share) for name, share in zip(names, found, strict=True)}


def mixture_table(names: Sequence[str], found: Sequence[SetShare]) -> Iterator[str]:
    """The shares as lines of a table, for the log."""
    width = max(len("set"), *map(len, names))
    yield f"{'set':<{width}}  wanted  achieved    samples    epochs        tokens    of answers"
    for name, one in zip(names, found, strict=True):
        yield (
            f"{name:<{width}}  {one.wanted:6.3f}  {one.achieved:8.3f}  {one.samples:9,}  {one.epochs:8.3f}  "
            f"{one.tokens:12,}  {one.answer_tokens:12,}"
        )
