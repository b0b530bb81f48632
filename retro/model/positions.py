"""How a model knows where tokens stand: a strategy by name, the value of `model.positions`.

Training, encoder, cross-attention and decoding with caches ask nothing else. A kind of one's own rotates by frequencies
of its own (docs/extending.md); it is not exported, because transformers has no name for it, and `reference.py` needs a
row in its `FREQUENCIES` to be compared with it. No torch here: settings read it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from retro.common.registry import Registry


class RotarySettings(Protocol):
    """What a rotary kind may read of a model's settings, as `ModelConfig` has it."""

    @property
    def head_width(self) -> int:
        """D, values of a head."""

    @property
    def rope_percent(self) -> float:
        """Share of them that is rotated."""

    @property
    def rope_base(self) -> int:
        """Base period."""

    @property
    def rope_scaling(self) -> float:
        """A factor on periods."""


@dataclass(frozen=True, kw_only=True)
class Positions:
    """One kind of positions."""

    rotary: bool = False
    """Whether the decoder's queries and keys are rotated."""
    frequencies: Callable[[RotarySettings], Sequence[float]] | None = None
    """For a rotary kind, radians from one position to the next for each of the rotated pairs of a head, half the
    rotated width of them; None: those of megatron-core, base^(-2i/width), with Llama 3.1's `rope_scaling`."""

    @property
    def defined_in(self) -> str:
        """The module of its function."""
        return self.frequencies.__module__ if self.frequencies is not None else __name__


def _accept(found: object) -> Positions:
    if not isinstance(found, Positions):
        raise TypeError(f"is of type {type(found).__name__}, needs to be a retro.model.positions.Positions")
    if all(found is not one for one in _BUILT_IN) and (not found.rotary or found.frequencies is None):
        raise TypeError("needs rotary=True and frequencies; no other kind of positions can be added")
    return found


ROPE = Positions(rotary=True)
ADDED = Positions()
"""Nothing is rotated: a table of rows is added to the embedded tokens, or nothing is."""
_BUILT_IN = (ROPE, ADDED)

POSITIONS: Registry[Positions] = Registry(
    "retro.positions",
    "a kind of positions",
    {"rope": f"{__name__}:ROPE", "learned": f"{__name__}:ADDED", "none": f"{__name__}:ADDED"},
    _accept,
)
"""Every kind of positions, for `model.positions`."""

POSITIONS_HINT = "one of another package has to be installed, or registered first"


def positions_named(name: str) -> Positions:
    """The kind of that name.

    Raises:
        ConfigError: There is none; the nearest is named.
        DependencyError: Another package brings it, and it cannot be loaded.
    """
    return POSITIONS.find(name, "model.positions", POSITIONS_HINT)
