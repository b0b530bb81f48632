"""A world of facts in which words alone find nothing: each thing has one name in questions and another in passages.

A fact joins an entity and a relation. Its document says both, by the names that passages use, among words that mean
nothing; its question says them by the names that questions use. Held-out documents are combinations that were not
learned of things that were, so a retriever has to learn which names mean the same, and that both matter.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from pathlib import Path

from retro.recipes.dense_retriever.pairs import Pair, PairPassage, write_pairs
from retro.recipes.item_files import write_items

SEED = 708
_SYLLABLES = [first + second for first in "bdfgklmnprstvz" for second in "aeiou"]


@dataclass(frozen=True)
class World:
    """Pairs by side, and all passages."""

    train: list[Pair]
    valid: list[Pair]

    @property
    def passages(self) -> list[PairPassage]:
        return [one.positive for one in (*self.train, *self.valid)]

    def write(self, home: Path) -> None:
        """As the steps `pairs` and `segments` leave them."""
        write_pairs(home / "pairs" / "train.jsonl", self.train)
        write_pairs(home / "pairs" / "valid.jsonl", self.valid)
        write_items(
            home / "segments" / "passages.jsonl",
            ({"id": one.id, "title": one.title, "text": one.text} for one in self.passages),
        )


def names(count: int, draw: random.Random) -> list[str]:
    """Different words of three syllables."""
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(draw.choice(_SYLLABLES) for _ in range(3))] = None
    return list(found)


def make_world(entities: int = 24, relations: int = 12, held_out: int = 60, fillers: int = 12) -> World:
    """The world of so many things; `held_out` of its facts are for validation."""
    draw = random.Random(SEED)
    words = names(2 * (entities + relations) + fillers + entities * relations, draw)
    take = iter(words)
    asked_entity, said_entity = ([next(take) for _ in range(entities)] for _ in range(2))
    asked_relation, said_relation = ([next(take) for _ in range(relations)] for _ in range(2))
    filler = [next(take) for _ in range(fillers)]
    pairs = []
    for number, (entity, relation) in enumerate(itertools.product(range(entities), range(relations))):
        answer = next(take)
        said = [said_entity[entity], said_relation[relation], answer, *draw.sample(filler, 3)]
        draw.shuffle(said)
        pairs.append(
            Pair(
                id=f"q{number}", document=f"d{number}", answers=(answer,),
                question=f"{asked_entity[entity]} {asked_relation[relation]}",
                positive=PairPassage(id=f"d{number}#0", text=" ".join(said)),
            )
        )  # fmt: skip
    draw.shuffle(pairs)
    return World(train=pairs[held_out:], valid=pairs[:held_out])
