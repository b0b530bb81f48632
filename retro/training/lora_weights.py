"""A checkpoint of adapters together with the checkpoint that they adapt, read as one: W + (alpha / rank) B A.

    step_00000200/checkpoint.json    beside the rest: where the base is, what it says about itself, rank and alpha
    step_00000200/*                  the adapters' weights and optimizer state alone; with `train_only=retrieval` also
                                     what reads neighbors, which takes the place of the base's

Each rank reads the rows and columns of W, B and A that it holds, so any layout reads what any other wrote.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from retro.mcore.lora import A, B, is_adapter

_OPTIMIZER = "optimizer."
"""Before the names of its state in a checkpoint."""


@dataclass(frozen=True, kw_only=True)
class BaseInfo:
    """What a checkpoint without the network itself says about where that is."""

    base: str
    """The checkpoint with the network, as a path from its own: a run directory may be moved as a whole."""
    base_mark: str
    """Name of that checkpoint's bytes; what was trained on it fits no other weights."""


@dataclass(frozen=True, kw_only=True)
class AdapterInfo(BaseInfo):
    """What a checkpoint of adapters says about them."""

    rank: int
    """Width between A and B."""
    alpha: float
    """They are scaled by alpha / rank."""


class StoredWeights(Protocol):
    """Weights on disk, by name."""

    @property
    def sizes(self) -> Mapping[str, tuple[int, ...]]:
        """The whole size of each."""

    def read(self, name: str, part: tuple[slice, ...]) -> Tensor:
        """A part of one, a slice an axis."""


def read_whole(stored: StoredWeights, name: str) -> Tensor:
    """All of one of them."""
    return stored.read(name, tuple(slice(0, length) for length in stored.sizes[name]))


class UnadaptedWeights:
    """The weights of a base, and of what was trained whole beside adapters; the adapters themselves are left out."""

    def __init__(self, base: StoredWeights, adapters: StoredWeights) -> None:
        self.base, self.adapters = base, adapters
        # The base may not even have it.
        self._whole = {name: adapters.sizes[name] for name in trained_whole(adapters)}

    @property
    def sizes(self) -> Mapping[str, tuple[int, ...]]:
        """Those of the base, whose sizes adapters do not change, and of what was trained whole."""
        return {**self.base.sizes, **self._whole}

    def read(self, name: str, part: tuple[slice, ...]) -> Tensor:
        """A part of a weight."""
        return (self.adapters if name in self._whole else self.base).read(name, part)


def trained_whole(adapters: StoredWeights) -> list[str]:
    """Names of weights in a checkpoint of adapters that take the place of the base's."""
    return [name for name in adapters.sizes if not (is_adapter(name) or name.startswith(_OPTIMIZER))]


class MergedWeights(UnadaptedWeights):
    """The weights of a base with adapters added to them."""

    def __init__(self, base: StoredWeights, adapters: StoredWeights, info: AdapterInfo) -> None:
        super().__init__(base, adapters)
        self.scale = info.alpha / info.rank

    def read(self, name: str, part: tuple[slice, ...]) -> Tensor:
        """A part of a merged weight, added in float32."""
        weight = super().read(name, part)
        layer, _, kind = name.rpartition(".")
        low, high = f"{layer}.{A}", f"{layer}.{B}"
        if kind != "weight" or low not in self.adapters.sizes:
            return weight
        rows, columns = part
        every = slice(0, self.adapters.sizes[low][0])
        a_rI, b_Or = self.adapters.read(low, (every, columns)), self.adapters.read(high, (rows, every))
        return weight.float() + self.scale * (b_Or.float() @ a_rI.float())


@dataclass(frozen=True, kw_only=True)
class NamedAdapters:
    """The adapters of one checkpoint."""

    name: str
    info: AdapterInfo
    stored: StoredWeights

    @property
    def layers(self) -> set[str]:
        """Names of the layers that have one."""
        found = (name.rpartition(".") for name in self.stored.sizes if not name.startswith(_OPTIMIZER))
        return {layer for layer, _, kind in found if kind == A}


class SeparateWeights:
    """The weights of a base, and adapters side by side: A of all of them as the rows of one matrix, B as columns.

    A layer that some of them do not adapt has zeros in their place.
    """

    def __init__(self, base: StoredWeights, adapters: Sequence[NamedAdapters]) -> None:
        self.base, self.adapters = base, tuple(adapters)
        self._layers = {layer: one for one in reversed(self.adapters) for layer in one.layers}
        self._rank = sum(one.info.rank for one in self.adapters)

    @property
    def layers(self) -> set[str]:
        """Names of the layers that an adapter adapts."""
        return set(self._layers)

    @property
    def sizes(self) -> Mapping[str, tuple[int, ...]]:
        """Those of the base, and of A and B of all adapters together."""
        found = dict(self.base.sizes)
        for layer, one in self._layers.items():
            found[f"{layer}.{A}"] = (self._rank, one.stored.sizes[f"{layer}.{A}"][1])
            found[f"{layer}.{B}"] = (one.stored.sizes[f"{layer}.{B}"][0], self._rank)
        return found

    def read(self, name: str, part: tuple[slice, ...]) -> Tensor:
        """A part of one; of A all rows, of B all columns."""
        layer, _, kind = name.rpartition(".")
        if kind not in (A, B) or layer not in self._layers:
            return self.base.read(name, part)
        axis = 0 if kind == A else 1
        return torch.cat([_of(one, name, part[1 - axis], axis) for one in self.adapters], dim=axis)


def _of(adapters: NamedAdapters, name: str, part: slice, axis: int) -> Tensor:
    """A or B of one; `part` is that of the other axis than the rank's."""
    rank = adapters.info.rank
    own = (slice(0, rank), part) if axis == 0 else (part, slice(0, rank))
    if name in adapters.stored.sizes:
        return adapters.stored.read(name, own)
    return torch.zeros([one.stop - one.start for one in own])
