"""What the sentences of a rationale lean on: documents that they name by number, or whose words they share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from retro.qa.answer_files import Answer
from retro.qa.metrics.normalize import normalize_answer
from retro.qa.prompts import shown_order
from retro.qa.question import Context, PassageOrder, Question
from retro.qa.sentences import sentences, with_citation
from retro.recipes.passages.search import as_record

_NUMBERS = r"\d{1,3}(?:\s*(?:,|and|or|&|,\s*and|to|-|–)\s*(?:documents?\s+)?\d{1,3})*"
_NAMED = re.compile(rf"\bdoc(?:ument)?s?\.?\s*[#(\[]?\s*({_NUMBERS})", re.IGNORECASE)
_RANGE = re.compile(r"(\d+)\s*(?:-|–|to)\s*(\d+)")
# A sentence with one of these says of a document that it does not help, or that something is not in it.
_DENIES = re.compile(
    r"\b(?:not|no|none|neither|nor|nothing|without|irrelevant|unrelated|unhelpful|lacks?|cannot)\b|n['’]t\b",
    re.IGNORECASE,
)
LEAST_SHARED = 0.5
"""Share of a sentence's words that a document needs to have for the sentence to lean on it."""
# fmt: off
_COMMON = frozenset({
    "about", "after", "also", "and", "are", "been", "but", "can", "could", "did", "does", "document",
    "documents", "for", "from", "had", "has", "have", "here", "how", "into", "its", "not", "one", "only",
    "other", "our", "should", "some", "such", "than", "that", "the", "their", "them", "then", "there", "these",
    "they", "this", "those", "was", "were", "what", "when", "where", "which", "while", "who", "whom", "why",
    "will", "with", "would", "you", "your",
})
# fmt: on


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A sentence of an answer."""

    text: str
    named: tuple[int, ...] = ()
    """Documents that it names, by their numbers in the prompt, from 1; those that there are."""
    denies: bool = False
    """Whether it says something is not so: the documents that it names are then not what supports it."""
    nearest: int | None = None
    """The document that shares most of its words, where it names none and one shares enough."""

    @property
    def cited(self) -> tuple[int, ...]:
        """Documents that it names as what supports it."""
        return () if self.denies else self.named


def as_shown(documents: Sequence[Context], order: PassageOrder) -> list[Context]:
    """Documents, best first given, as a prompt shows them: number n is at place n - 1."""
    return [documents[rank] for rank in shown_order(len(documents), order)]


def claims(answer: str, shown: Sequence[Context]) -> list[Claim]:
    """The sentences of an answer, and the documents that each leans on.

    Args:
        answer: A rationale.
        shown: The documents in the order of their numbers.
    """
    words = [_words(f"{one.title} {one.text}") for one in shown]
    return [_claim(one, words) for one in sentences(answer)]


def _claim(sentence: str, words: Sequence[set[str]]) -> Claim:
    named = tuple(number for number in named_documents(sentence) if 1 <= number <= len(words))
    if named:
        return Claim(text=sentence, named=named, denies=_DENIES.search(sentence) is not None)
    mine = _words(sentence)
    shared = [len(mine & one) / len(mine) if mine else 0.0 for one in words]
    best = max(range(len(shared)), key=shared.__getitem__, default=None)
    enough = best is not None and shared[best] >= LEAST_SHARED
    return Claim(text=sentence, nearest=best + 1 if enough and best is not None else None)


def named_documents(sentence: str) -> list[int]:
    """Numbers of the documents that a sentence names, each once: `Document 2`, `documents 1, 3 and 4`."""
    found = (number for numbers in _NAMED.findall(sentence) for number in _numbers(numbers))
    return list(dict.fromkeys(found))


def _numbers(text: str) -> list[int]:
    """Numbers of a list such as `1, 3-5 and 7`."""
    whole = _RANGE.sub(lambda found: " ".join(map(str, range(int(found[1]), int(found[2]) + 1))), text)
    return [int(number) for number in re.findall(r"\d+", whole)]


def _words(text: str) -> set[str]:
    """Words that say something: without the commonest, and those of two letters."""
    return {word for word in normalize_answer(text).split() if len(word) > 2 and word not in _COMMON}


def with_citations(answer: str, shown: Sequence[Context]) -> str:
    """An answer on one line in which each sentence cites, `[n]`, the documents that it names as support."""
    return " ".join(_cited(one) for one in claims(answer, shown))


def _cited(claim: Claim) -> str:
    text = " ".join(claim.text.split())
    return with_citation(text, *claim.cited) if claim.cited else text


def alce_file(answers: Sequence[Answer], questions: Sequence[Question], order: PassageOrder) -> dict[str, Any]:
    """Answers as `retro alce` reads them.

    Args:
        answers: Of a mode.
        questions: Those that were asked, with the documents that were shown, best first.
        order: How these stood.
    """
    data = []
    for answer, question in zip(answers, questions, strict=True):
        shown = as_shown(question.contexts, order)
        data.append(
            {
                "question": question.question,
                "output": with_citations(answer.prediction, shown),
                "docs": [dict(as_record(one)) for one in shown],
                "qa_pairs": [
                    {"question": question.question, "short_answers": list(one)} for one in question.answer_groups
                ],
            }
        )
    return {"data": data}
