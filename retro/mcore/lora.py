"""Low-rank adapters on parallel linear layers (Hu et al. 2021, arXiv:2106.09685): y = W x + (alpha / rank) B A x.

A layer keeps its weights and their names and gets two more, `lora_a` (A) and `lora_b` (B). Its class becomes one
derived from it, as torch's parametrizations do it, so megatron-core's local layers and Transformer Engine's are adapted
alike: norms are layers of their own with both, and a linear layer is handed what it multiplies.

How ranks share A and B follows from how they share W, and what travels between them is `rank` numbers a token:

    column parallel   A whole, B cut with the rows of W      A x is gathered along the sequence, if that is shared out
    row parallel      A cut with the columns of W, B whole   A x is summed over the ranks, and shared out if it was

B starts at zero, so an adapter first adds nothing. A is drawn from a seed and the layer's name: equal on every layout.
"""

# Dims in this file.
#   s tokens on this rank (S, or S / T under sequence parallel)   S tokens   B sequences
#   I input and O output width on this rank                      r rank of the adapter

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
    reduce_from_tensor_model_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
)
from megatron.core.tensor_parallel.random import get_cuda_rng_tracker
from megatron.core.transformer.mlp import apply_swiglu_sharded_factory
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint
from torch import Tensor, nn
from torch.nn import functional

from retro.mcore.cpu import device

A, B = "lora_a", "lora_b"


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """What an adapted layer knows beside its two weights."""

    scale: float
    """alpha / rank."""
    dropout: float
    """Probability of dropping a number of what A multiplies, in training."""
    gated: bool
    """Whether the rows of W are a gate's above the rest's, each cut over the ranks by itself (SwiGLU)."""
    sequence_parallel: bool
    group: Any
    """The tensor parallel ranks."""


class _Adapted(nn.Module):
    """Goes before a parallel linear layer's class, and adds what A and B make of the input to its output."""

    lora_a: nn.Parameter
    lora_b: nn.Parameter
    adaptation: Adaptation
    split: tuple[str, int]
    """Which of the two is cut over the ranks, and along which axis."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """As the layer's own: [s or S, B, I] to the output and the bias that it leaves to others."""
        output, bias = super().forward(x, *args, **kwargs)
        return output + self.added(x), bias

    def added(self, x: Tensor) -> Tensor:
        """What is added to the layer's output, in its form."""
        raise NotImplementedError

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[Any, ...] = (), metadata: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """As the layer's own, which takes what it does not know for whole on every rank."""
        layer: Any = super()
        state: dict[str, Any] = layer.sharded_state_dict(prefix, sharded_offsets, metadata)
        state |= make_sharded_tensors_for_checkpoint(
            {A: self.lora_a, B: self.lora_b},
            prefix,
            dict([self.split]),
            sharded_offsets,
            tp_group=self.adaptation.group,
            dp_cp_group=(metadata or {})["dp_cp_group"],
        )
        if self.adaptation.gated:
            state[prefix + B] = apply_swiglu_sharded_factory(state[prefix + B], sharded_offsets)
        return state

    def dropped(self, x: Tensor, *, own_numbers: bool) -> Tensor:
        """Dropout on the input. Ranks that hold different parts of it draw numbers of their own."""
        if not self.training or self.adaptation.dropout == 0.0:
            return x
        # Under sequence parallelism the whole transformer block does so already.
        own_numbers = own_numbers and not self.adaptation.sequence_parallel
        with get_cuda_rng_tracker().fork() if own_numbers else nullcontext():
            return functional.dropout(x, self.adaptation.dropout)


class _AdaptedColumn(_Adapted):
    """Outputs shared by the tensor parallel ranks."""

    split = (B, 0)

    def added(self, x: Tensor) -> Tensor:
        """[S, B, O] from [s, B, I]."""
        low_sBr = functional.linear(self.dropped(x, own_numbers=False), self.lora_a) * self.adaptation.scale
        # Backward, both sum the gradients that the ranks' parts of B give: to all ranks, or to each for its tokens.
        share = (
            gather_from_sequence_parallel_region
            if self.adaptation.sequence_parallel
            else copy_to_tensor_model_parallel_region
        )
        return functional.linear(share(low_sBr, group=self.adaptation.group), self.lora_b)


class _AdaptedRow(_Adapted):
    """Inputs shared by the tensor parallel ranks."""

    split = (A, 1)

    def added(self, x: Tensor) -> Tensor:
        """[s, B, O] from [S, B, I]."""
        low_SBr = functional.linear(self.dropped(x, own_numbers=True), self.lora_a) * self.adaptation.scale
        total = (
            reduce_scatter_to_sequence_parallel_region
            if self.adaptation.sequence_parallel
            else reduce_from_tensor_model_parallel_region
        )
        return functional.linear(total(low_SBr, group=self.adaptation.group), self.lora_b)


@cache
def _adapted_class(kind: Any, layer: Any) -> Any:
    return type(f"Adapted{layer.__name__}", (kind, layer), {})


def attach(
    linear: nn.Module, *, row_parallel: bool, gated: bool, rank: int, alpha: float, dropout: float, seed: int
) -> None:
    """Give a parallel linear layer an adapter. After the model is built, before its optimizer is.

    Args:
        linear: A column-parallel or row-parallel layer of megatron-core or of Transformer Engine.
        row_parallel: Which.
        gated: Whether its output is a gate's above the rest's (SwiGLU).
        rank: Of the adapter, r.
        alpha: What it adds is scaled by alpha / rank.
        dropout: On its input.
        seed: A's values are drawn from it.

    Raises:
        ValueError: It has one.
    """
    if isinstance(linear, _Adapted):
        raise ValueError("the layer has an adapter already")
    group = parallel_state.get_tensor_model_parallel_group()
    # Both kinds of layers keep it there.
    layer: Any = linear
    sequence_parallel = layer.config.sequence_parallel and group.size() > 1
    weight_OI: nn.Parameter = layer.weight
    a_rI = _drawn(weight_OI.size(1) * (group.size() if row_parallel else 1), rank, seed)
    if row_parallel:
        a_rI = a_rI.chunk(group.size(), dim=1)[group.rank()].contiguous()
    layer.lora_a = nn.Parameter(a_rI.to(device=device(), dtype=weight_OI.dtype))
    layer.lora_b = nn.Parameter(torch.zeros(weight_OI.size(0), rank, dtype=weight_OI.dtype, device=device()))
    layer.adaptation = Adaptation(
        scale=alpha / rank, dropout=dropout, gated=gated, sequence_parallel=sequence_parallel, group=group
    )
    layer.__class__ = _adapted_class(_AdaptedRow if row_parallel else _AdaptedColumn, layer.__class__)
    _mark(layer)


def _drawn(width: int, rank: int, seed: int) -> Tensor:
    """[rank, width] values of A on all ranks together: Gaussian, so that A x is about as large as a number of x."""
    generator = torch.Generator(device="cpu").manual_seed(seed)
    return torch.randn(rank, width, generator=generator) / width**0.5


def _mark(layer: Any) -> None:
    """Tell megatron-core which of the two is cut, and whose gradient is each rank's own tokens' alone."""
    cut, axis = layer.split
    set_tensor_model_parallel_attributes(getattr(layer, cut), True, axis, 1)
    # The whole one is multiplied with shared-out tokens: megatron-core sums gradients of parameters with this mark.
    whole = getattr(layer, A if cut == B else B)
    whole.sequence_parallel = layer.adaptation.sequence_parallel


def is_adapter(name: str) -> bool:
    """Whether a weight is an adapter's."""
    return name.rpartition(".")[2] in (A, B)
