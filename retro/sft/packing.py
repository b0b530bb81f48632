"""Which samples stand together in one sequence: a pure function of the sequence's number.

Samples are taken in the blend's order, a window of them at a time, and each window is packed by first-fit decreasing
(Johnson 1973): the longest sample first, each into the first sequence that has room. A window's sequences then come in
random order, since that algorithm leaves the short samples to the last. So every sample is trained on exactly as often
as the blend says, any process can lay out any sequence, and a resumed run continues exactly.
"""

# Dims in this file.
#   N samples   P sequences   M tokens of a chunk

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

WINDOW = 1024
"""Samples packed at a time. More fill sequences better and stray further from the blend's order."""


@dataclass(frozen=True, kw_only=True)
class FillStatistics:
    """How full packed sequences are."""

    sequences: int
    samples: int
    real_tokens: int
    """Input tokens without pads."""
    slots: int
    """Input tokens with them, S in each sequence."""

    @property
    def efficiency(self) -> float:
        """Real tokens of all slots."""
        return self.real_tokens / self.slots if self.slots else 0.0


LengthsOf = Callable[[NDArray[np.int64]], tuple[NDArray[np.int64], NDArray[np.int64]]]
"""From sample numbers to the tokens of each prompt, and of the whole sample, that are inputs."""


class Packing:
    """Sample numbers of each sequence, continuing for ever."""

    def __init__(
        self, lengths_of: LengthsOf, *, sequence_length: int, chunk_length: int, seed: int, window: int = WINDOW
    ) -> None:
        """Say how long samples are.

        Args:
            lengths_of: Lengths of samples by number; each fits a sequence alone.
            sequence_length: S.
            chunk_length: Each prompt ends on a multiple of this: M, or 1 where no neighbors are read.
            seed: Of the order of a window's sequences.
            window: Samples packed at a time.
        """
        self.lengths_of = lengths_of
        self.sequence_length, self.chunk_length = sequence_length, chunk_length
        self.seed, self.window = seed, window
        self._ends: list[int] = []
        self._packed = lru_cache(maxsize=8)(self._pack)

    def samples(self, sequence_numbers: Iterable[int]) -> list[NDArray[np.int64]]:
        """The sample numbers of each of these sequences, in their order.

        A sequence's window is known once those before it are packed, a few milliseconds each.
        """
        return [self._of_sequence(int(number)) for number in sequence_numbers]

    def first(self, sequences: int) -> NDArray[np.int64]:
        """The numbers of all samples in the first `sequences` sequences."""
        return np.concatenate([np.empty(0, dtype=np.int64), *self.samples(range(sequences))])

    def _of_sequence(self, number: int) -> NDArray[np.int64]:
        while not self._ends or self._ends[-1] <= number:
            before = self._ends[-1] if self._ends else 0
            self._ends.append(before + len(self._packed(len(self._ends))))
        window = bisect_right(self._ends, number)
        return self._packed(window)[number - (self._ends[window - 1] if window else 0)]

    def _pack(self, window: int) -> list[NDArray[np.int64]]:
        numbers_N = np.arange(window * self.window, (window + 1) * self.window, dtype=np.int64)
        groups = first_fit_decreasing(*self.lengths_of(numbers_N), self.sequence_length, self.chunk_length)
        order = np.random.default_rng((self.seed, window)).permutation(len(groups))
        return [numbers_N[groups[place]] for place in order.tolist()]


def first_fit_decreasing(
    prompts_N: NDArray[np.int64], lengths_N: NDArray[np.int64], room: int, chunk_length: int
) -> list[NDArray[np.int64]]:
    """Share samples out to sequences.

    Args:
        prompts_N: Tokens of each prompt.
        lengths_N: Tokens of each sample that are inputs, its prompt included.
        room: S.
        chunk_length: M, as in `encode.firsts_of`.

    Returns:
        The samples of each sequence in the order in which they stand, the longest first.
    """
    used_P = np.zeros(len(lengths_N), dtype=np.int64)
    groups: list[list[int]] = [[] for _ in lengths_N]
    for sample in np.argsort(-lengths_N, kind="stable").tolist():
        end_P = used_P + -(used_P + prompts_N[sample]) % chunk_length + lengths_N[sample]
        sequence = int(np.argmax(end_P <= room))
        if end_P[sequence] > room:
            raise ValueError(f"a sample of {lengths_N[sample]} tokens ends at {end_P[sequence]}, a sequence at {room}")
        used_P[sequence] = end_P[sequence]
        groups[sequence].append(sample)
    return [np.array(group, dtype=np.int64) for group in groups if group]
