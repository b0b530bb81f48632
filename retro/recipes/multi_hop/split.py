"""A part of the items held out for validation, without what training has seen: what belongs together stays together."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from retro.recipes.multi_hop.items import MultiHopItem

_MADE_OF = re.compile(r"(/neg)?(/q\d+)?$")
"""Behind the id of a question: of its negative, and of its sub-questions as items of their own."""


def held_out(items: Sequence[MultiHopItem], share: float, seed: int) -> tuple[list[MultiHopItem], list[MultiHopItem]]:
    """The items for training, and about a share of them for validation, each in their order.

    A question, its negative and its sub-questions go together, and so do single-hop items from one paragraph.

    Args:
        items: All items.
        share: From 0 up to 1. The original held out 3,190 of 28,690.
        seed: Changes which.
    """
    train, validation = list[MultiHopItem](), list[MultiHopItem]()
    for number, item in enumerate(items):
        drawn = int.from_bytes(hashlib.sha256(f"{seed} {_group(item, number)}".encode()).digest()[:8])
        (validation if drawn < share * 2**64 else train).append(item)
    return train, validation


def _group(item: MultiHopItem, number: int) -> str:
    question = _MADE_OF.sub("", item.id)
    if not item.multihop and question == item.id:
        return item.sub_questions[0].paragraph or item.question
    return question or f"{number} {item.question}"
