"""A part of the items held out for validation, without what training has seen: what belongs together stays together."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from retro.qa.metrics.normalize import normalize_answer
from retro.recipes.multi_hop.items import MultiHopItem

_MADE_OF = re.compile(r"(/neg)?(/q\d+)?$")
"""Behind the id of a question: of its negative, and of its sub-questions as items of their own."""


def held_out(items: Sequence[MultiHopItem], share: float, seed: int) -> tuple[list[MultiHopItem], list[MultiHopItem]]:
    """The items for training, and about a share of them for validation, each in their order.

    What shares a question goes together, as a question and its negative do, with its sub-questions as items of their
    own, and so do single-hop items from one paragraph.

    Args:
        items: All items.
        share: From 0 up to 1. The original held out 3,190 of 28,690.
        seed: Changes which.
    """
    train, validation = list[MultiHopItem](), list[MultiHopItem]()
    for group, item in zip(_groups([_keys(one) for one in items]), items, strict=True):
        drawn = int.from_bytes(hashlib.sha256(f"{seed} {group}".encode()).digest()[:8])
        (validation if drawn < share * 2**64 else train).append(item)
    return train, validation


def _keys(item: MultiHopItem) -> list[str]:
    """What it shares with the items that it belongs to."""
    question = _MADE_OF.sub("", item.id)
    keys = [f"question {normalize_answer(item.question) or item.question}"]
    if question:
        keys.append(f"id {question}")
    # Parts of a question made here go with it; a negative's paragraph is that of any other question.
    if not item.multihop and question == item.id and item.sub_questions[0].paragraph:
        keys.append(f"paragraph {normalize_answer(item.sub_questions[0].paragraph)}")
    return keys


def _groups(keys: Sequence[Sequence[str]]) -> list[str]:
    """For each item the first, by name, of all keys that it is joined to by keys in common."""
    above: dict[str, str] = {}

    def first_of(key: str) -> str:
        while (up := above.get(key, key)) != key:
            key = above[key] = above.get(up, up)
        return key

    for mine in keys:
        low, *others = sorted({first_of(key) for key in mine})
        above |= dict.fromkeys(others, low)
    return [first_of(mine[0]) for mine in keys]
