"""Which pairs make a batch, and what stands in it: a function of seed and step, so a resumed run sees the same.

A question's negatives are the other passages of its batch. So no two pairs of a batch have a document, a question or a
passage's text in common, and no passage of it, drawn or another pair's, is, or is of the document of, a positive of a
question that it is a negative of: be this positive in the batch or in no pair at all.
"""

# Dims in this file. S steps   B pairs of a batch, over all processes

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retro.common.errors import ConfigError
from retro.recipes.dense_retriever.pairs import Pair, PairPassage, question_key
from retro.recipes.dense_retriever.same_question import Positives, document_among, positives_of
from retro.recipes.dense_retriever.training.crops import crop_pair, generator

Int64 = NDArray[np.int64]
Columns = dict[str, list[Any]]
"""Texts of a batch by column: question, positive, negative_1 …; and with distillation `label`."""


@dataclass(frozen=True, eq=False)
class Plan:
    """All batches of a training."""

    rows_SB: Int64
    """[S, B] numbers of the pairs."""
    deferred: int
    """Times that a pair waited for a later batch, because it has something in common with one in the batch."""
    left_out: int
    """Times that a pair was in no batch of an epoch: too few were left for a whole one."""

    @property
    def steps(self) -> int:
        """S."""
        return len(self.rows_SB)


def plan_batches(
    keys: Sequence[Collection[Hashable]],
    size: int,
    seed: int,
    *,
    refused: Sequence[Collection[Hashable]] | None = None,
    steps: int | None = None,
    epochs: float = 1.0,
) -> Plan:
    """Draw the batches of a training.

    Args:
        keys: Of each pair, what no other pair of its batch may have.
        size: B.
        seed: Of the order, together with the number of the epoch.
        refused: Of each pair, what no other pair of its batch may have among its keys, besides the pair's own keys.
        steps: S; None: as many as `epochs` take.
        epochs: Times that all pairs are seen.

    Raises:
        ConfigError: There are not enough pairs that differ for one batch.
    """
    refused = keys if refused is None else refused
    batches: list[list[int]] = []
    deferred = left_out = epoch = 0
    wanted = steps
    while wanted is None or len(batches) < wanted:
        found, waited, rest = _epoch(keys, refused, size, generator(seed, "order", epoch).permutation(len(keys)))
        if not found:
            need = f"needs at most {_distinct(keys, refused)} here: so many of the {len(keys)} pairs have no document, "
            need += "question or passage in common"
            raise ConfigError("batch_size", size, need)
        batches += found
        deferred, left_out, epoch = deferred + waited, left_out + rest, epoch + 1
        if steps is None and epoch >= epochs:
            spare = (epoch - epochs) * len(found)
            wanted = max(1, len(batches) - int(spare))
    return Plan(np.array(batches[:wanted], dtype=np.int64), deferred, left_out)


@dataclass
class _Taken:
    """What the pairs of a batch have, and what they refuse."""

    keys: set[Hashable] = field(default_factory=set)
    refused: set[Hashable] = field(default_factory=set)

    def add(self, keys: Collection[Hashable], refused: Collection[Hashable]) -> bool:
        """Take another pair, unless it and one that is here refuse each other."""
        fits = self.keys.isdisjoint(keys) and self.keys.isdisjoint(refused) and self.refused.isdisjoint(keys)
        if fits:
            self.keys.update(keys)
            self.refused.update(refused)
        return fits


def _distinct(keys: Sequence[Collection[Hashable]], refused: Sequence[Collection[Hashable]]) -> int:
    taken = _Taken()
    return sum(taken.add(*one) for one in zip(keys, refused, strict=True))


def _epoch(
    keys: Sequence[Collection[Hashable]], refused: Sequence[Collection[Hashable]], size: int, order: Int64
) -> tuple[list[list[int]], int, int]:
    """Batches of an epoch, how often a pair was deferred, and how many pairs are in no batch."""
    fresh: Iterator[int] = iter(order.tolist())
    waiting: list[int] = []
    batches: list[list[int]] = []
    deferred = 0
    while True:
        batch: list[int] = []
        taken = _Taken()
        queue, waiting = waiting, []
        for row in _both(queue, fresh):
            if taken.add(keys[row], refused[row]):
                batch.append(row)
                if len(batch) == size:
                    break
            else:
                waiting.append(row)
                deferred += 1
        waiting += queue
        if len(batch) < size:
            return batches, deferred, len(batch) + len(waiting)
        batches.append(batch)


def _both(queue: list[int], fresh: Iterator[int]) -> Iterator[int]:
    """First what waited, taken off the list; then the rest of the order."""
    while queue:
        yield queue.pop(0)
    yield from fresh


def pair_keys(pair: Pair) -> tuple[Hashable, ...]:
    """What no other pair of a batch may have."""
    return (("d", pair.document), ("q", question_key(pair.question)), ("p", pair.positive.text.strip()))


def refused_keys(pairs: Sequence[Pair]) -> list[Collection[Hashable]]:
    """Of each pair, what no other pair of its batch may have: documents and texts of its question's other positives."""
    # Pairs of a question share theirs: a question of DPR may have a hundred positives.
    found: dict[int, frozenset[Hashable]] = {}
    positives = positives_of(pairs)
    for one in positives:
        if id(one) not in found:
            documents, texts = (("d", name) for name in one.documents), (("p", text) for text in one.texts)
            found[id(one)] = frozenset([*documents, *texts])
    return [found[id(one)] for one in positives]


def passage_text(passage: PairPassage, *, title: bool) -> str:
    """What of a passage is embedded, as `retro.recipes.passages.embedders.embedded_text` has it."""
    return f"{passage.title} {passage.text}" if title and passage.title else passage.text


@dataclass
class NegativeCounts:
    """What became of hard negatives, over the steps of this process."""

    hard: int = 0
    random: int = 0
    """Passages of random other pairs: drawn so, or because a pair had no more hard ones."""
    masked: int = 0
    """Hard negatives left out, for they are of another positive's document in the batch, or equal its text."""


@dataclass(frozen=True, kw_only=True)
class PairBatches:
    """The texts of each step, for training on pairs."""

    pairs: Sequence[Pair]
    plan: Plan
    seed: int
    query_prefix: str
    passage_prefix: str
    title: bool
    negatives: int = 0
    hard_share: float = 1.0
    pool: Callable[[int], Sequence[Sequence[PairPassage]]] = lambda _: ()
    """Hard negatives of each pair, as they are at a step."""
    labels: Sequence[Sequence[float]] | None = None
    """With distillation: the reader's scores of the positive and of the pair's own negatives, equally many."""
    counts: NegativeCounts = field(default_factory=NegativeCounts)

    @cached_property
    def _positives(self) -> list[Positives]:
        return positives_of(self.pairs)

    def columns(self, step: int) -> Columns:
        """What stands in the batch of a step."""
        rows = self.plan.rows_SB[step].tolist()
        chosen = [self.pairs[row] for row in rows]
        found: Columns = {
            "question": [self.query_prefix + one.question for one in chosen],
            "positive": [self._text(one.positive) for one in chosen],
        }
        others = self._given(rows) if self.labels is not None else self._drawn(step, rows)
        for number in range(len(others[0]) if others else 0):
            found[f"negative_{number + 1}"] = [self._text(one[number]) for one in others]
        if self.labels is not None:
            found["label"] = [list(self.labels[row]) for row in rows]
        return found

    def _given(self, rows: Sequence[int]) -> list[Sequence[PairPassage]]:
        return [self.pairs[row].negatives for row in rows]

    def _drawn(self, step: int, rows: Sequence[int]) -> list[Sequence[PairPassage]]:
        if not self.negatives:
            return []
        pool = self.pool(step)
        # Of all positives of each question, be they in the batch or not.
        texts = {text for row in rows for text in self._positives[row].texts}
        documents = {name for row in rows for name in self._positives[row].documents}
        return [self._negatives(step, row, pool[row], texts, documents) for row in rows]

    def _negatives(
        self, step: int, row: int, pool: Sequence[PairPassage], texts: set[str], documents: set[str]
    ) -> list[PairPassage]:
        random = generator(self.seed, "negatives", step, row)
        hard = [pool[place] for place in random.permutation(len(pool)).tolist()]
        allowed = [one for one in hard if not clashes(one, texts, documents)]
        chosen: list[PairPassage] = []
        for _ in range(self.negatives):
            if allowed and random.random() < self.hard_share:
                chosen.append(allowed.pop(0))
                self.counts.hard += 1
            else:
                chosen.append(self._random(random, texts, documents))
                self.counts.random += 1
        self.counts.masked += len([one for one in hard if clashes(one, texts, documents)])
        return chosen

    def _random(self, random: np.random.Generator, texts: set[str], documents: set[str]) -> PairPassage:
        for _ in range(100):
            other = self.pairs[int(random.integers(len(self.pairs)))]
            if other.document not in documents and not clashes(other.positive, texts, documents):
                return other.positive
        # Where few are allowed a hundred draws may miss them.
        allowed = [
            one.positive
            for one in self.pairs
            if one.document not in documents and not clashes(one.positive, texts, documents)
        ]
        if allowed:
            return allowed[int(random.integers(len(allowed)))]
        need = f"needs to be smaller for {len(self.pairs)} pairs: no passages are left to draw negatives from"
        raise ConfigError("batch_size", self.plan.rows_SB.shape[1], need)

    def _text(self, passage: PairPassage) -> str:
        return self.passage_prefix + passage_text(passage, title=self.title)


def clashes(negative: PairPassage, texts: set[str], documents: set[str]) -> bool:
    """Whether a negative may answer a question of the batch: of one of its documents, or equal to a positive."""
    named = document_among(negative.id, negative.title, documents, document=negative.document)
    return named is not None or negative.text.strip() in texts


@dataclass(frozen=True, kw_only=True)
class CropBatches:
    """The texts of each step, for pretraining on crops."""

    texts: Callable[[Sequence[int]], Sequence[str]]
    """Segments by their numbers."""
    plan: Plan
    seed: int
    passages: int
    """How many segments there are: with the place in the order it gives the epoch."""
    smallest: float
    largest: float
    deletion: float
    query_prefix: str = ""
    passage_prefix: str = ""

    def columns(self, step: int) -> Columns:
        """Two crops of each segment of the step."""
        rows = self.plan.rows_SB[step].tolist()
        epoch = step * len(rows) // max(1, self.passages)
        crops = [
            crop_pair(text, self.smallest, self.largest, self.deletion, generator(self.seed, "crop", epoch, step, row))
            for row, text in zip(rows, self.texts(rows), strict=True)
        ]
        return {
            "question": [self.query_prefix + first for first, _ in crops],
            "positive": [self.passage_prefix + second for _, second in crops],
        }
