"""Low-rank adapters on parallel linear layers (Hu et al. 2021, arXiv:2106.09685): y = W x + (alpha / rank) B A x.

A layer keeps its weights and their names and gets two more, `lora_a` (A) and `lora_b` (B). Its class becomes one
derived from it, as torch's parametrizations do it, so megatron-core's local layers and Transformer Engine's are adapted
alike: norms are layers of their own with both, and a linear layer is handed what it multiplies.

How ranks share A and B follows from how they share W, and what travels between them is `rank` numbers a token:

    column parallel   A whole, B cut with the rows of W      A x is gathered along the sequence, if that is shared out
    row parallel      A cut with the columns of W, B whole   A x is summed over the ranks, and shared out if it was

B starts at zero, so an adapter first adds nothing. A is drawn from a seed and the layer's name: equal on every layout.

For inference a layer may hold several adapters side by side, in the rows of A and the columns of B. An `AdapterChoice`,
one for all layers of a model, says which of them the next pass applies, for all tokens or token by token: A x of all of
them is one product, in which the numbers of others than a token's own adapter become zero before B.
"""

# Dims in this file.
#   s tokens on this rank (S, or S / T under sequence parallel)   S tokens   B sequences
#   I input and O output width on this rank                      r rank of the adapter, or the sum of several
#   P packed tokens, of all sequences

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
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


class AdapterChoice:
    """Which adapters the next pass applies, and to which tokens. At first that called "", if there is one."""

    def __init__(self, adapters: Mapping[str, tuple[int, float]], dtype: torch.dtype) -> None:
        """Nothing is chosen but what is called "".

        Args:
            adapters: Rank and scale of each, by name, in the order in which layers hold them.
            dtype: Of A and B.
        """
        total, first = sum(rank for rank, _ in adapters.values()), 0
        self._places: dict[str, slice] = {}
        table_Nr = torch.zeros(len(adapters) + 1, total)
        for number, (name, (rank, scale)) in enumerate(adapters.items()):
            self._places[name] = slice(first, first + rank)
            table_Nr[number, first : first + rank] = scale
            first += rank
        self._scales = {name: scale for name, (_, scale) in adapters.items()}
        self._numbers = {name: number for number, name in enumerate(adapters)}
        # The last row is that of tokens without an adapter.
        self._table_Nr = table_Nr.to(device=device(), dtype=dtype)
        self.rank = total
        self.columns: slice | None = None
        """Which of the r numbers are used; None: none, the pass is that of the base."""
        self.factor: float | Tensor = 0.0
        """What they are multiplied with: the scale, or [P, 1, columns] the scale of a token's own adapter, else 0."""
        self.use("")

    @property
    def names(self) -> tuple[str, ...]:
        """What the adapters are called."""
        return tuple(self._places)

    def use(self, name: str) -> None:
        """Apply one to every token of what follows; a name that none has: nothing."""
        self.columns = self._places.get(name)
        self.factor = 0.0 if self.columns is None else self._scales[name]

    def use_by_token(self, names: Sequence[str]) -> None:
        """Apply to each of the packed tokens of the next pass the adapter of that name."""
        used = [self._places[name] for name in set(names) if name in self._places]
        if len(set(names)) == 1 or not used:
            self.use(names[0])
            return
        self.columns = slice(min(one.start for one in used), max(one.stop for one in used))
        numbers = torch.tensor([self._numbers.get(name, -1) for name in names], device=self._table_Nr.device)
        self.factor = self._table_Nr[numbers, self.columns][:, None]

    @contextmanager
    def off(self) -> Iterator[None]:
        """Within, passes are those of the base, whatever is asked for."""
        places, self._places = self._places, {}
        self.columns = None
        try:
            yield
        finally:
            self._places = places
            self.use("")


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
    choice: AdapterChoice | None = None
    """Which of several adapters is applied; None: there is one, and it is."""


class Adapted(nn.Module):
    """Goes before a parallel linear layer's class, and adds what A and B make of the input to its output."""

    lora_a: nn.Parameter
    lora_b: nn.Parameter
    adaptation: Adaptation
    split: tuple[str, int]
    """Which of the two is cut over the ranks, and along which axis."""
    product: Callable[..., tuple[Tensor, Tensor | None]] | None = None
    """What computes the layer's own output; None: its own forward."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """As the layer's own: [s or S, B, I] to the output and the bias that it leaves to others."""
        output, bias = (self.product or super().forward)(x, *args, **kwargs)
        choice = self.adaptation.choice
        if choice is not None and choice.columns is None:
            return output, bias
        return output + self.added(x), bias

    def low(self, x: Tensor) -> Tensor:
        """[.., B, r] A x, scaled."""
        choice = self.adaptation.choice
        if choice is None:
            return functional.linear(x, self.lora_a) * self.adaptation.scale
        return functional.linear(x, self.lora_a[choice.columns]) * choice.factor

    def high(self, low: Tensor) -> Tensor:
        """[.., B, O] B times what `low` gave."""
        choice = self.adaptation.choice
        return functional.linear(low, self.lora_b if choice is None else self.lora_b[:, choice.columns])

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


class _AdaptedColumn(Adapted):
    """Outputs shared by the tensor parallel ranks."""

    split = (B, 0)

    def added(self, x: Tensor) -> Tensor:
        """[S, B, O] from [s, B, I]."""
        low_sBr = self.low(self.dropped(x, own_numbers=False))
        # Backward, both sum the gradients that the ranks' parts of B give: to all ranks, or to each for its tokens.
        share = (
            gather_from_sequence_parallel_region
            if self.adaptation.sequence_parallel
            else copy_to_tensor_model_parallel_region
        )
        return self.high(share(low_sBr, group=self.adaptation.group))


class _AdaptedRow(Adapted):
    """Inputs shared by the tensor parallel ranks."""

    split = (A, 1)

    def added(self, x: Tensor) -> Tensor:
        """[s, B, O] from [S, B, I]."""
        low_SBr = self.low(self.dropped(x, own_numbers=True))
        total = (
            reduce_scatter_to_sequence_parallel_region
            if self.adaptation.sequence_parallel
            else reduce_from_tensor_model_parallel_region
        )
        return self.high(total(low_SBr, group=self.adaptation.group))


@cache
def _adapted_class(kind: Any, layer: Any) -> Any:
    return type(f"Adapted{layer.__name__}", (kind, layer), {})


def attach(
    linear: nn.Module,
    *,
    row_parallel: bool,
    gated: bool,
    rank: int,
    alpha: float,
    dropout: float,
    seed: int,
    choice: AdapterChoice | None = None,
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
        choice: Says which of several adapters are applied, `rank` wide together, each with its own scale.

    Raises:
        ValueError: It has one, or its forward was replaced, so that an adapter would be ignored.
    """
    if isinstance(linear, Adapted):
        raise ValueError("the layer has an adapter already")
    if "forward" in vars(linear):
        raise ValueError("the layer's forward was replaced (for_inference): an adapter would be ignored")
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
        scale=alpha / rank,
        dropout=dropout,
        gated=gated,
        sequence_parallel=sequence_parallel,
        group=group,
        choice=choice,
    )
    layer.__class__ = _adapted_class(_AdaptedRow if row_parallel else _AdaptedColumn, layer.__class__)
    _mark(layer)


def detach(linear: nn.Module) -> None:
    """Take a layer's adapter away.

    Raises:
        ValueError: It has none.
    """
    if not isinstance(linear, Adapted):
        raise ValueError("the layer has no adapter")
    layer: Any = linear
    layer.__class__ = plain_class(layer)
    for name in (A, B, "adaptation"):
        delattr(layer, name)
    vars(layer).pop("product", None)


def plain_class(linear: nn.Module) -> type:
    """A layer's class without what an adapter put before it."""
    kind = type(linear)
    return kind.__bases__[1] if isinstance(linear, Adapted) else kind


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
