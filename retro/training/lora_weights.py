"""A checkpoint of adapters together with the checkpoint that they adapt, read as one: W + (alpha / rank) B A.

    step_00000200/checkpoint.json    beside the rest: where the base is, what it says about itself, rank and alpha
    step_00000200/*                  the adapters' weights and optimizer state alone; with `train_only=retrieval` also
                                     what reads neighbors, which takes the place of the base's

Each rank reads the rows and columns of W, B and A that it holds, so any layout reads what any other wrote.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from retro.mcore.lora import A, B, is_adapter


@dataclass(frozen=True, kw_only=True)
class AdapterInfo:
    """What a checkpoint of adapters says about them."""

    base: str
    """The checkpoint that they adapt, as a path from their own: a run directory may be moved as a whole."""
    base_mark: str
    """Name of that checkpoint's bytes; adapters fit no other weights."""
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


class MergedWeights:
    """The weights of a base with adapters added to them."""

    def __init__(self, base: StoredWeights, adapters: StoredWeights, info: AdapterInfo) -> None:
        self.base, self.adapters = base, adapters
        self.scale = info.alpha / info.rank
        # What was trained whole beside the adapters; the base may not even have it.
        self._whole = {
            name: size
            for name, size in adapters.sizes.items()
            if not is_adapter(name) and not name.startswith("optimizer.")
        }

    @property
    def sizes(self) -> Mapping[str, tuple[int, ...]]:
        """Those of the base, whose sizes adapters do not change, and of what was trained whole."""
        return {**self.base.sizes, **self._whole}

    def read(self, name: str, part: tuple[slice, ...]) -> Tensor:
        """A part of a merged weight, added in float32."""
        if name in self._whole:
            return self.adapters.read(name, part)
        weight = self.base.read(name, part)
        layer, _, kind = name.rpartition(".")
        low, high = f"{layer}.{A}", f"{layer}.{B}"
        if kind != "weight" or low not in self.adapters.sizes:
            return weight
        rows, columns = part
        every = slice(0, self.adapters.sizes[low][0])
        a_rI, b_Or = self.adapters.read(low, (every, columns)), self.adapters.read(high, (rows, every))
        return weight.float() + self.scale * (b_Or.float() @ a_rI.float())
