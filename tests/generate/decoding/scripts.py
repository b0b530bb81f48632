"""Random sequences of decoder calls: which rows are extended, forked and closed, and which neighbors they get."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from retro.generate.request import Decoder, Extension, Neighbors
from tests.model.tiny import CHUNK, VOCABULARY

R = 2 * CHUNK


def neighbors(random: np.random.Generator, count: int = 2, *, missing: bool = False) -> Neighbors:
    """Some neighbors; a fifth of their tokens are padding."""
    mask = np.zeros((count, R), dtype=bool) if missing else random.random((count, R)) > 0.2
    return Neighbors(random.integers(0, VOCABULARY, (count, R)), mask)


def tokens(random: np.random.Generator, count: int) -> list[int]:
    """Random token ids."""
    found: list[int] = random.integers(0, VOCABULARY, count).tolist()
    return found


class Course:
    """One sequence whose chunks end every `every` tokens from `first` on."""

    def __init__(self, random: np.random.Generator, row: int, *, first: int, every: int, counts: list[int]) -> None:
        self.random, self.row, self.first, self.every, self.counts = random, row, first, every, counts
        self.length = 0

    def extension(self, count: int) -> Extension:
        """The next so many tokens."""
        places = [
            place
            for place in range(count)
            if (position := self.length + place) >= self.first and (position - self.first) % self.every == 0
        ]
        given = {
            place: neighbors(self.random, int(self.random.choice(self.counts)), missing=self.random.random() < 0.15)
            for place in places
        }
        self.length += count
        return Extension(self.row, tokens(self.random, count), given)

    def fork(self, row: int) -> Course:
        """Another that continues from here, with other tokens and neighbors."""
        other = copy.copy(self)
        other.row = row
        return other


def calls(random: np.random.Generator, courses: list[Course], steps: int, longest: int) -> Iterator[list[Extension]]:
    """Calls that extend some of the sequences, mostly by one token, in any order."""
    for _ in range(steps):
        chosen = random.permutation(len(courses))[: random.integers(1, len(courses) + 1)]
        extensions = []
        for number in chosen:
            course = courses[number]
            count = 1 if random.random() < 0.7 else int(random.integers(1, 2 * CHUNK + 2))
            if course.length + count <= longest:
                extensions.append(course.extension(count))
        if extensions:
            yield extensions


@dataclass(frozen=True)
class Fork:
    """A sequence is forked."""

    source: int
    forks: tuple[int, ...]


@dataclass(frozen=True)
class Close:
    """A sequence ends."""

    row: int


def fork_tree(
    random: np.random.Generator, *, steps: int, longest: int, first: int, every: int, counts: list[int], most: int = 6
) -> Iterator[list[Extension] | Fork | Close]:
    """Random calls of two sequences, of forks of them, of forks of forks; sequences end while their forks continue.

    Rows are numbered in the order in which they are opened. At most `most` are open at once.
    """
    courses = [Course(random, row, first=first + row, every=every, counts=counts) for row in range(2)]
    yield [course.extension(int(random.integers(1, longest // 2))) for course in courses]
    opened = len(courses)
    for _ in range(steps):
        if len(courses) < most and random.random() < 0.4:
            count = int(random.integers(1, most - len(courses) + 1))
            source = courses[random.integers(len(courses))]
            courses += [source.fork(opened + number) for number in range(count)]
            yield Fork(source.row, tuple(range(opened, opened + count)))
            opened += count
        if len(courses) > 1 and random.random() < 0.3:
            yield Close(courses.pop(random.integers(len(courses))).row)
        yield from calls(random, courses, steps=2, longest=longest)
    for course in courses:
        yield Close(course.row)


def play(decoder: Decoder, tree: Iterator[list[Extension] | Fork | Close]) -> Iterator[list[Tensor]]:
    """The logits of each call of a tree."""
    rows = {number: decoder.open() for number in range(2)}
    for action in tree:
        if isinstance(action, Fork):
            rows |= dict(zip(action.forks, decoder.fork(rows[action.source], len(action.forks)), strict=True))
        elif isinstance(action, Close):
            decoder.close(rows.pop(action.row))
        else:
            yield decoder.extend_all([Extension(rows[one.row], one.tokens, one.neighbors) for one in action])
