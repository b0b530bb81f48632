"""Items in which a paragraph does not hold the answer: that of another item takes its place."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from retro.qa.metrics.normalize import normalize_answer
from retro.recipes.multi_hop.filters import named
from retro.recipes.multi_hop.flows import Draft, Hop

Replaced = Literal["first", "second", "both"]
REPLACED: tuple[Replaced, ...] = ("first", "second", "both")
_PLACES: dict[Replaced, tuple[int, ...]] = {"first": (0,), "second": (1,), "both": (0, 1)}


@dataclass(frozen=True, kw_only=True)
class Owned:
    """A question with what it is filed under."""

    id: str
    category: str
    draft: Draft


@dataclass(frozen=True, kw_only=True)
class Negative:
    """A question with one paragraph of another item, or two."""

    of: Owned
    draft: Draft
    """Its answers are empty."""
    replaced: tuple[int, ...]
    """Sub-questions whose paragraph does not hold the answer, counted from 0."""
    taken_from: tuple[str, ...]
    """The items that these paragraphs are of."""


def negatives_of(items: Sequence[Owned], pool: Sequence[Owned], share: float, seed: int) -> tuple[list[Negative], int]:
    """Negatives of a share of the items, drawn by the seed, in their order.

    Args:
        items: All items of a flow.
        pool: Items whose paragraphs may be taken; of the same category first.
        share: Of the items that are drawn.
        seed: Of all draws.

    Returns:
        The negatives, and how many items were drawn for which no other paragraph could be found.
    """
    count = round(share * len(items))
    chosen = sorted(random.Random(f"{seed} negatives {len(items)}").sample(range(len(items)), count))
    near = defaultdict[str, list[Owned]](list)
    for one in pool:
        near[one.category].append(one)
    found = [
        _negative(items[place], (near[items[place].category], pool), random.Random(f"{seed} {items[place].id}"))
        for place in chosen
    ]
    made = [one for one in found if one is not None]
    return made, len(found) - len(made)


def _negative(item: Owned, pools: Sequence[Sequence[Owned]], draw: random.Random) -> Negative | None:
    replaced = _PLACES[draw.choice(REPLACED)]
    hops, taken = list(item.draft.hops), list[str]()
    for place in replaced:
        found = _other_paragraph(item, hops[place], pools, draw)
        if found is None:
            return None
        name, paragraph = found
        hops[place] = replace(hops[place], paragraph=paragraph)
        taken.append(name)
    open_hops = [replace(one, long_answer="") for one in hops]
    draft = replace(item.draft, hops=(open_hops[0], open_hops[1]), final_answer="", answer="", reasoning="")
    return Negative(of=item, draft=draft, replaced=replaced, taken_from=tuple(taken))


def _other_paragraph(
    item: Owned, hop: Hop, pools: Sequence[Sequence[Owned]], draw: random.Random
) -> tuple[str, str] | None:
    """Name and paragraph of another item, about another entity or another attribute: the first behind a drawn place."""
    for pool in pools:
        start = draw.randrange(2 * len(pool)) if pool else 0
        for step in range(2 * len(pool)):
            place, half = divmod((start + step) % (2 * len(pool)), 2)
            other = pool[place].draft.hops[half]
            if pool[place].id != item.id and _cannot_answer(hop, other):
                return pool[place].id, other.paragraph
    return None


def _cannot_answer(hop: Hop, other: Hop) -> bool:
    if normalize_answer(hop.entity) == normalize_answer(other.entity):
        return normalize_answer(hop.attribute) != normalize_answer(other.attribute)
    return not named(other.paragraph, [hop.entity])
