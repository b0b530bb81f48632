"""Entity substitution (Longpre et al. 2021, arXiv:2109.05052): the answer in a passage gives way to another.

Pure functions. What they cannot do they name in a word, to be counted: nothing is changed by half.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
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
LONGEST_ENTITY = 8
"""Words; a longer answer is a sentence: it replaces nothing, and a passage says it in other words."""
_SHORT_WORD = 3
"""Letters; a name that is no longer is found in its own case alone."""
_ARTICLE = re.compile(r"^(?:the|an?)\s+", re.IGNORECASE)


@dataclass(frozen=True)
class Pool:
    """Answers that may take the place of others."""

    by_type: Mapping[str, Sequence[str]]
    type_of: TypeOf

    @classmethod
    def of(cls, answers: Sequence[str], type_of: TypeOf) -> Pool:
        """From the first answer of each question, sentences apart; of those that are equal as answers are compared, the
        first."""
        short = [one for one in answers if len(one.split()) <= LONGEST_ENTITY]
        distinct = {normalize_answer(one): one for one in reversed(short)}
        found: dict[str, list[str]] = {}
        for one in sorted(distinct.values()):
            found.setdefault(type_of(one), []).append(one)
        return cls(found, type_of)

    def candidates(self, answer: str, policy: Policy) -> Sequence[str]:
        """Those that an answer may be replaced by: under `corpus` of its type and alike; under `type_swap` never
        yes or no, which are words of any passage."""
        kind = self.type_of(answer)
        if policy == "corpus":
            return [one for one in self.by_type.get(kind, ()) if _alike(one, answer)]
        others = sorted(set(self.by_type) - {kind, "yes_no"})
        return [one for name in others for one in self.by_type[name]]


def _alike(one: str, other: str) -> bool:
    """Whether two answers begin alike (a capital, a digit or neither) and differ by one word at most."""
    first, second = (_ARTICLE.sub("", text.strip()) for text in (one, other))
    begins = [(text[:1].isupper(), text[:1].isdecimal()) for text in (first, second)]
    return begins[0] == begins[1] and abs(len(first.split()) - len(second.split())) <= 1


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
    known = pool.candidates(answers[0], policy)
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
    names, same = _names_of(tuple(answers)), normalize_answer(other)
    made, changes = [], list[dict[str, Any]]()
    for place, passage in enumerate(passages):
        # A name that is the substitute stays: as an alias it is there already.
        found = [
            one["name"]
            for one in names.matches(f"{passage.title}\n{passage.text}")
            if normalize_answer(one["name"]) != same
        ]
        made.append(Context(names.replaced(passage.title, other), names.replaced(passage.text, other)))
        changes += [
            {"passage": place, "from": name, "to": other, "times": found.count(name)} for name in dict.fromkeys(found)
        ]
    return tuple(made), changes, _problem(made, changes, answers, other)


def _problem(made: Sequence[Context], changes: Sequence[Mapping[str, Any]], answers: Sequence[str], other: str) -> str:
    if not changes:
        return "answer_not_in_passages"
    # An alias is an answer itself: only the names that were replaced have to be gone.
    gone = [one for one in answers if normalize_answer(one) != normalize_answer(other)]
    cut = _names_of((other,)).pattern
    if mentions([Context(cut.sub(" ", one.title), cut.sub(" ", one.text)) for one in made], gone):
        return "original_answer_remains"
    return "" if mentions(made, [other]) else "substitute_is_missing"


def mentions(passages: Sequence[Context], answers: Sequence[str]) -> bool:
    """Whether title or text of any passage has one of the answers; see `names_answer`."""
    return any(names_answer(part, answers) for one in passages for part in (one.title, one.text))


def names_answer(text: str, answers: Sequence[str]) -> bool:
    """Whether a text has one of the answers as whole words, both normalized; `us` and `may` are not US and May."""
    return holds_answer(text, answers) and holds_answer(_names_of(tuple(answers)).without_others(text), answers)


@dataclass(frozen=True)
class _Names:
    """The names of an answer, as they are found in passages: whole words, any space between them."""

    forms: tuple[str, ...]
    """Without a leading article, the longest first."""
    titled: Mapping[str, str]
    """The article that is part of a name, both in lower case: the, of The Beatles."""
    pattern: re.Pattern[str]
    """`name` in any case, with the `article` before it."""

    def matches(self, text: str) -> list[re.Match[str]]:
        """Where the text has a name."""
        return [one for one in self.pattern.finditer(text) if self._has_case(one["name"])]

    def replaced(self, text: str, other: str) -> str:
        """The text with another answer in place of each name that is not that answer already."""

        def change(found: re.Match[str]) -> str:
            same = normalize_answer(found["name"]) == normalize_answer(other)
            return found[0] if same or not self._has_case(found["name"]) else self._in_place(found, other)

        return self.pattern.sub(change, text)

    def without_others(self, text: str) -> str:
        """The text without words that differ from a name by their case."""
        return self.pattern.sub(lambda found: found[0] if self._has_case(found["name"]) else " ", text)

    def _has_case(self, found: str) -> bool:
        words = found.lower().split()
        return any(words == one.lower().split() and _same_case(found, one) for one in self.forms)

    def _in_place(self, found: re.Match[str], other: str) -> str:
        article = found["article"] or ""
        if not article:
            return other
        if self.titled.get(" ".join(found["name"].lower().split())) != article.strip().lower():
            return article + _ARTICLE.sub("", other)
        # The article goes with its name; what takes its place begins as it did.
        first = other[0].upper() if article[0].isupper() else other[0].lower() if _ARTICLE.match(other) else other[0]
        return first + other[1:]


def _same_case(found: str, form: str) -> bool:
    """Whether a word is the name and no common word: a short one as it is written (US, It, May), a longer one with a
    capital where the name has one (Rose). Several words are a name in any case, and yes or no (True) is no name."""
    if len(form.split()) > 1 or normalize_answer(form) in YES_NO:
        return True
    if len(form) <= _SHORT_WORD:
        return found == form or (form.islower() and found == form.capitalize())
    return form.islower() or not found.islower()


@lru_cache(maxsize=1024)
def _names_of(answers: tuple[str, ...]) -> _Names:
    bare = {one: _ARTICLE.sub("", one) for one in (" ".join(name.split()) for name in answers)}
    forms = sorted(set(bare.values()), key=lambda one: (-len(one), one))
    titled = {
        short.lower(): one.split()[0].lower() for one, short in bare.items() if one != short and not short[0].islower()
    }
    body = "|".join(r"\s+".join(map(re.escape, one.split())) for one in forms)
    pattern = re.compile(rf"(?<!\w)(?P<article>(?:the|an?)\s+)?(?P<name>{body})(?!\w)", re.IGNORECASE)
    return _Names(tuple(forms), titled, pattern)
