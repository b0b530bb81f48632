"""The next token of each answer, from its logits.

Drawing uses one uniform number per question and step, from a stream of the question's own. So an answer does
not depend on the batch it was computed in, on a resume, or on how the questions were sliced over processes; a
shared torch.Generator would give other answers each time.
"""

# Dims in this file.
#   B answers in the batch   V vocabulary

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from retro.generate.config import SamplingConfig

if TYPE_CHECKING:
    from torch import Tensor


def next_ids(logits_BV: Tensor, sampling: SamplingConfig, uniform_B: Tensor) -> Tensor:
    """Choose one token per row.

    Args:
        logits_BV: Any float dtype; computed in float32.
        sampling: Greedy, top-k or top-p, with temperature.
        uniform_B: Numbers in [0, 1), one draw per row; not looked at with greedy.

    Returns:
        [B] int64.
    """
    if sampling.kind == "greedy":
        return logits_BV.argmax(dim=-1)
    sorted_BV, ids_BV = (logits_BV.float() / sampling.temperature).sort(dim=-1, descending=True, stable=True)
    probability_BV = sorted_BV.softmax(dim=-1)
    mass_BV = (probability_BV * _kept(probability_BV, sampling)).cumsum(dim=-1)
    # The first token whose mass exceeds the draw. Clamped: rounding can leave the last mass below its own
    # total.
    target_B1 = uniform_B.to(mass_BV).unsqueeze(-1) * mass_BV[:, -1:]
    place_B1 = (mass_BV <= target_B1).sum(dim=-1, keepdim=True).clamp(max=mass_BV.shape[-1] - 1)
    return ids_BV.gather(-1, place_B1).squeeze(-1)


def _kept(probability_BV: Tensor, sampling: SamplingConfig) -> Tensor:
    """Which tokens, likeliest first, may be drawn: always at least the first."""
    import torch

    if sampling.kind == "top_k":
        return torch.arange(probability_BV.shape[-1], device=probability_BV.device) < sampling.top_k
    # The smallest set of tokens that reaches top_p: those before which less than top_p was gathered.
    return probability_BV.cumsum(dim=-1) - probability_BV < sampling.top_p


class Picker:
    """Chooses tokens for a batch of questions, step after step."""

    def __init__(self, sampling: SamplingConfig, seed: int, question_numbers: Sequence[int]) -> None:
        """Start the streams.

        Args:
            sampling: How to choose.
            seed: The run's seed.
            question_numbers: Each question's place in the whole file, not in the slice or batch.
        """
        self.sampling = sampling
        self._streams = [np.random.default_rng((seed, number)) for number in question_numbers]

    def __call__(self, logits_BV: Tensor) -> Tensor:
        """Tokens [B] for logits [B, V]; call once per step."""
        import torch

        uniform = [stream.random() for stream in self._streams]
        return next_ids(logits_BV, self.sampling, torch.tensor(uniform, dtype=torch.float64, device=logits_BV.device))
