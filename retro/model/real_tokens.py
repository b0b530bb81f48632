"""The real tokens of neighbors, one after the other: what acts on each token alone need not be computed on padding.

A neighbor is filled up to R tokens, and its continuation is often missing altogether. Linear layers, norms and
embeddings see real tokens only; attention, which needs neighbors side by side, gets them spread out again.
"""

# Dims: H, R as in attention.py; C neighbors in all, B L K; P real tokens of all of them; X any.

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class RealTokens:
    """Where the real tokens of neighbors stand; in the order of positions, then of neighbors, as they lie in memory."""

    count: int
    """C."""
    width: int
    """R."""
    places_P: Tensor | None
    """In [R C]; None where all of them are real."""

    @classmethod
    def of(cls, real_CR: Tensor) -> RealTokens:
        """Those of a mask that is True where a token is real; of nothing real, the first: layers refuse no tokens."""
        places_P = real_CR.T.flatten().nonzero()[:, 0]
        if not len(places_P):
            places_P = places_P.new_zeros(1)
        everything = len(places_P) == real_CR.numel()
        return cls(real_CR.size(0), real_CR.size(1), None if everything else places_P)

    def chosen(self, x_RC: Tensor) -> Tensor:
        """[R, C] to [P], of what has no gradient."""
        x_T = x_RC.flatten()
        return x_T if self.places_P is None else x_T[self.places_P]

    def positions(self, device: torch.device) -> Tensor:
        """[P] position of each in its neighbor."""
        return self.chosen(torch.arange(self.width, device=device)[:, None].expand(-1, self.count))

    def pack(self, x_RCX: Tensor) -> Tensor:
        """[R, C, ...] to [P, 1, ...]."""
        x_TX = x_RCX.flatten(0, 1)
        packed = x_TX if self.places_P is None else _pack(x_TX, self.places_P)
        return packed[:, None]

    def spread(self, x_P1X: Tensor) -> Tensor:
        """[P, 1, ...] to [R, C, ...], zeros on padding."""
        x_PX = x_P1X[:, 0]
        spread = x_PX if self.places_P is None else _spread(x_PX, self.places_P, self.count * self.width)
        return spread.unflatten(0, (self.width, self.count))


def _pack(x_TX: Tensor, places_P: Tensor) -> Tensor:
    packed: Tensor = _Pack.apply(x_TX, places_P)  # type: ignore[no-untyped-call]
    return packed


def _spread(x_PX: Tensor, places_P: Tensor, total: int) -> Tensor:
    spread: Tensor = _Spread.apply(x_PX, places_P, total)  # type: ignore[no-untyped-call]
    return spread


def _copied(x_PX: Tensor, places_P: Tensor, total: int) -> Tensor:
    return x_PX.new_zeros(total, *x_PX.shape[1:]).index_copy_(0, places_P, x_PX)


class _Pack(torch.autograd.Function):
    """Rows at places that differ: the gradient is copied there, where torch's own would be added up row by row."""

    @staticmethod
    def forward(ctx: Any, x_TX: Tensor, places_P: Tensor) -> Tensor:
        ctx.save_for_backward(places_P)
        ctx.total = len(x_TX)
        return x_TX.index_select(0, places_P)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (places_P,) = ctx.saved_tensors
        return _copied(gradients[0], places_P, ctx.total), None


class _Spread(torch.autograd.Function):
    """The way back from `_Pack`."""

    @staticmethod
    def forward(ctx: Any, x_PX: Tensor, places_P: Tensor, total: int) -> Tensor:
        ctx.save_for_backward(places_P)
        return _copied(x_PX, places_P, total)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (places_P,) = ctx.saved_tensors
        return gradients[0].index_select(0, places_P), None, None
