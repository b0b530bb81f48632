"""How a model knows where tokens stand: a strategy by name, the value of `model.positions`.

A kind of positions is a row here and one in `reference.py`, which the parity tests hold equal: training, encoder,
cross-attention and decoding with caches ask these two alone. A kind of one's own rotates by frequencies of its own; it
is not exported, because transformers has no name for it. No torch here: settings read it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


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


_KINDS: dict[str, Positions] = {
    "rope": Positions(rotary=True),
    "learned": Positions(),  # a table of rows that are added to the embedded tokens
    "none": Positions(),
}


def register_positions(name: str, positions: Positions) -> None:
    """Add a kind of positions.

    Raises:
        ValueError: There is one of that name, or it has no frequencies to rotate by.
    """
    if name in _KINDS:
        raise ValueError(f"positions named {name!r} are there already")
    if not positions.rotary or positions.frequencies is None:
        raise ValueError(f"positions named {name!r} need rotary=True and frequencies; no other kind can be added")
    _KINDS[name] = positions


def positions_named(name: str) -> Positions:
    """The kind of that name; `ModelConfig` has checked that there is one."""
    return _KINDS[name]


def kinds_of_positions() -> tuple[str, ...]:
    """All names."""
    return tuple(_KINDS)
