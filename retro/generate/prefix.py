"""Prefixes: sequences whose caches an engine holds, for requests that continue them without computing them again.

A request that continues a prefix begins with a fork of its row (`Decoder.fork`).
"""

# Dims in this file.
#   V vocabulary

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from retro.common.errors import ConfigError
from retro.generate.request import Decoder, Knowledge, Prefix

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class HeldPrefix:
    """What is known of a prefix, beside the caches of its row."""

    row: int
    read: int
    """How many of its tokens the decoder has read; the last chosen token of a request never is."""
    logits_V: Tensor | None
    """Of the token that follows; None unless all tokens are read."""
    has_read: bool
    """Whether a chunk was given neighbors, which are in view until the next chunk ends."""
    adapter: str = ""
    """What its tokens were read with."""
    knowledge: Knowledge | None = None
    """The documents that they attended to."""


class PrefixCache:
    """The prefixes of one engine."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._held: dict[Prefix, HeldPrefix] = {}

    def hold(self, tokens: Sequence[int], held: HeldPrefix) -> Prefix:
        """Take over a row that was read."""
        prefix = Prefix(tuple(tokens), held.adapter, held.knowledge)
        self._held[prefix] = held
        return prefix

    def find(self, prefix: Prefix | None) -> HeldPrefix | None:
        """The state of a prefix; None for none.

        Raises:
            ConfigError: It is not held, or no longer.
        """
        if prefix is not None and prefix not in self._held:
            need = "needs one that this engine holds; it was released, or belongs to another engine"
            raise ConfigError("prefix", f"{len(prefix.tokens)} tokens", need)
        return None if prefix is None else self._held[prefix]

    def require_adapter(self, prefix: Prefix | None, adapter: str) -> None:
        """Check that a prefix was read with an adapter, whose keys and values its caches hold.

        Raises:
            ConfigError: It was read with another.
        """
        if prefix is not None and prefix.adapter != adapter:
            need = f"needs {prefix.adapter!r}, which its prefix was read with"
            raise ConfigError("adapter", adapter, need)

    def require_knowledge(self, prefix: Prefix | None, knowledge: Knowledge | None) -> None:
        """Check that a prefix was read with the same documents, which its caches depend on.

        Raises:
            ConfigError: It was read with others, or without.
        """
        if prefix is not None and prefix.knowledge != knowledge:
            need = f"needs {_named(prefix.knowledge)}, which its prefix was read with"
            raise ConfigError("knowledge", _named(knowledge), need)

    def without_last(self, prefix: Prefix) -> Prefix:
        """Take over a prefix, less its last token, which its row has not read.

        Raises:
            ConfigError: As `find`.
            ValueError: The last token was read.
        """
        held = self.find(prefix)
        if held is None or held.read != len(prefix.tokens) - 1:
            raise ValueError("only a token that was not read can be dropped: the last one of a request that has ended")
        shorter = self.hold(prefix.tokens[:-1], held)
        del self._held[prefix]
        return shorter

    def release(self, prefix: Prefix) -> None:
        """Close its row; what has been forked from it continues.

        Raises:
            ConfigError: As `find`.
        """
        self.find(prefix)
        self._decoder.close(self._held.pop(prefix).row)


def equal_beginnings(items: Sequence[T], same: Callable[[T, T], bool]) -> dict[int, int]:
    """The place of each item that begins as an earlier one does, with the place of the first such."""
    firsts: list[int] = []
    found: dict[int, int] = {}
    for place, one in enumerate(items):
        first = next((other for other in firsts if same(one, items[other])), None)
        if first is None:
            firsts.append(place)
        else:
            found[place] = first
    return found


def _named(knowledge: Knowledge | None) -> str:
    return "no documents" if knowledge is None else knowledge.identity


def open_rows(decoder: Decoder, held: Sequence[tuple[HeldPrefix | None, str, Knowledge | None]]) -> list[int]:
    """Rows that continue prefixes; empty ones, for the adapter and the documents beside it, where there is none."""
    forks = iter(fork_rows(decoder, [one.row for one, *_ in held if one is not None]))
    return [decoder.open(adapter, knowledge) if one is None else next(forks) for one, adapter, knowledge in held]


def fork_rows(decoder: Decoder, rows: Sequence[int]) -> list[int]:
    """A fork of each row. Those of one row are made at once, so that memory grows once for all of them."""
    forks = {row: iter(decoder.fork(row, count)) for row, count in Counter(rows).items()}
    return [next(forks[row]) for row in rows]
