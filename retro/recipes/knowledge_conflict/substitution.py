"""Entity substitution (Longpre et al. 2021, arXiv:2109.05052): the answer in a passage gives way to another.

Pure functions. What they cannot do they name in a word, to be counted: nothing is changed by half.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from retro.qa.metrics.normalize import normalize_answer
from retro.qa.question import Context
from retro.recipes.knowledge_conflict.entity_types import YES_NO, TypeOf
from retro.recipes.knowledge_conflict.quadrants import holds_answer

Policy = Literal["corpus", "type_swap", "alias"]
"""Where the substitute comes from. `corpus`: an answer of the same type to another question. `type_swap`: one of
another type. `alias`: another name of the same answer, which stays right."""
TRIES = 64
"""Answers of other questions that are tried for each question."""


@dataclass(frozen=True)
class Pool:
    """Answers that may take the place of others."""

    by_type: Mapping[str, Sequence[str]]
    type_of: TypeOf

    @classmethod
    def of(cls, answers: Sequence[str], type_of: TypeOf) -> Pool:
        """From the first answer of each question; of those that are equal as answers are compared, the first."""
        distinct = {normalize_answer(one): one for one in reversed(answers)}
        found: dict[str, list[str]] = {}
        for one in sorted(distinct.values()):
            found.setdefault(type_of(one), []).append(one)
        return cls(found, type_of)

    def candidates(self, kind: str, policy: Policy) -> Sequence[str]:
        """Those that an answer of a type may be replaced by; never yes or no, which are words of any passage."""
        if policy == "corpus":
            return self.by_type.get(kind, ())
        others = sorted(set(self.by_type) - {kind, "yes_no"})
        return [one for name in others for one in self.by_type[name]]


def generator_of(seed: int, *names: str) -> np.random.Generator:
    """Random numbers for one question, whatever else is in its file."""
    digest = hashlib.sha256("\0".join(names).encode("utf-8", "surrogatepass")).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "big")])


def other_answers(answers: Sequence[str], pool: Pool, policy: Policy, draw: np.random.Generator) -> Iterator[str]:
    """Answers that may stand in place of a question's, in the order in which they are to be tried.

    Args:
        answers: Of the question, the first being the one whose type counts.
        pool: Answers of all questions.
        policy: Where they come from.
        draw: The question's random numbers.
    """
    if policy == "alias":
        yield from dict.fromkeys(answers)
        return
    if normalize_answer(answers[0]) in YES_NO:
        yield YES_NO[normalize_answer(answers[0])]
        return
    known = pool.candidates(pool.type_of(answers[0]), policy)
    for place in draw.choice(len(known), size=min(len(known), TRIES), replace=False) if known else ():
        if not any(_overlap(known[place], one) for one in answers):
            yield known[place]


def _overlap(one: str, other: str) -> bool:
    return holds_answer(one, [other]) or holds_answer(other, [one])


def substituted(
    passages: Sequence[Context], answers: Sequence[str], other: str
) -> tuple[tuple[Context, ...], list[dict[str, Any]], str]:
    """Passages with each answer replaced.

    Args:
        passages: Title and text of each are changed.
        answers: All names of the answer; the longest that fits is replaced as a whole.
        other: What takes their place.

    Returns:
        The passages, what was replaced by what in which of them, and why they cannot be used; empty: they can.
    """
    pattern, same = _pattern(answers), normalize_answer(other)
    made, changes = [], list[dict[str, Any]]()
    for place, passage in enumerate(passages):
        found = pattern.findall(f"{passage.title}\n{passage.text}")
        # A name that is the substitute stays: as an alias it is there already.
        found = [name for name in found if normalize_answer(name) != same]
        title, text = (pattern.sub(lambda name: _other(name[0], other), part) for part in (passage.title, passage.text))
        made.append(Context(title, text))
        changes += [
            {"passage": place, "from": name, "to": other, "times": found.count(name)} for name in dict.fromkeys(found)
        ]
    return tuple(made), changes, _problem(made, changes, answers, other)


def _problem(made: Sequence[Context], changes: Sequence[Mapping[str, Any]], answers: Sequence[str], other: str) -> str:
    if not changes:
        return "answer_not_in_passages"
    # An alias is an answer itself: only the names that were replaced have to be gone.
    gone = [one for one in answers if normalize_answer(one) != normalize_answer(other)]
    cut = _pattern([other])
    if mentions([Context(cut.sub(" ", one.title), cut.sub(" ", one.text)) for one in made], gone):
        return "original_answer_remains"
    return "" if mentions(made, [other]) else "substitute_is_missing"


def mentions(passages: Sequence[Context], answers: Sequence[str]) -> bool:
    """Whether title or text of any passage has one of the answers as whole words."""
    return any(holds_answer(part, answers) for one in passages for part in (one.title, one.text))


_ARTICLE = re.compile(r"^(?:the|an?)\s+", re.IGNORECASE)


def _other(name: str, other: str) -> str:
    return name if normalize_answer(name) == normalize_answer(other) else other


def _pattern(answers: Sequence[str]) -> re.Pattern[str]:
    """Any of the answers as whole words, in any case, with any space between words, a leading article or none."""
    bare = {_ARTICLE.sub("", one.strip()) or one.strip() for one in answers}
    forms = sorted(bare, key=lambda one: (-len(one), one))
    body = "|".join(r"\s+".join(map(re.escape, one.split())) for one in forms)
    return re.compile(rf"(?<!\w)(?:{body})(?!\w)", re.IGNORECASE)
