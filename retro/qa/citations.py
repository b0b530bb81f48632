"""Citations of long answers, `[n]` for the n-th passage: which sentences the passages that they cite support.

Recall and precision of ALCE (Gao et al. 2023, arXiv:2305.14627, section 4.3). Whether a text supports another is asked
of whatever is handed in: a model of natural language inference, or a rule in a test.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from retro.qa.sentences import sentence_pieces


class Entails(Protocol):
    """Says of pairs of texts whether the second follows from the first."""

    def __call__(self, premises: Sequence[str], hypotheses: Sequence[str]) -> list[bool]:
        """[N] whether each hypothesis is entailed by the premise of its place."""


MOST_CITED = 3
"""Citations of a sentence that count, the first ones."""

# As ALCE finds them: a bracket with a number, closed or not. `[1, 2]` cites the first passage alone.
_CITATION = re.compile(r"\[([0-9]{1,9})")
_WRITTEN = re.compile(r" ?\[[0-9]+")


@dataclass(frozen=True)
class CitedSentence:
    """A sentence of an answer."""

    text: str
    """Without its citations."""
    cited: tuple[int, ...]
    """The passages that it cites, counted from 1, in its order; one that it cites twice is there twice."""


@dataclass(frozen=True)
class CitationScore:
    """How well an answer is supported by what it cites; shares from 0 to 1."""

    recall: float
    """Of its sentences, those that all that they cite together entails. 0 for an answer without sentences."""
    precision: float
    """Of its citations, those that are right. 0 for an answer without any."""


def rendered_passage(title: str, text: str) -> str:
    """A passage as it is judged: its title on a line of its own, if it has one."""
    return f"Title: {title}\n{text}" if title else text


def without_citations(text: str) -> str:
    """A text without `[n]`, and without the blank before each."""
    return _WRITTEN.sub("", text).replace("]", "")


def cited_sentences(answer: str) -> list[CitedSentence]:
    """The sentences of an answer; what has no words beside its citations is none.

    A citation after the full stop belongs to the sentence before it, as writers mean it: `It rained. [1] It stopped.`
    Sentence splitters put it into the one after, and ALCE's own script with them.
    """
    found = [
        CitedSentence(without_citations(piece).strip(), tuple(map(int, _CITATION.findall(piece))))
        for piece in sentence_pieces(answer)
    ]
    return [one for one in found if any(map(str.isalnum, one.text))]


def score_citations(
    answers: Sequence[str], passages: Sequence[Sequence[str]], entails: Entails, *, most_cited: int = MOST_CITED
) -> list[CitationScore]:
    """Recall and precision of every answer's citations.

    A sentence counts for recall if all that it cites, joined, entails it; one that cites nothing, or a passage that
    there is not, does not. A citation of a sentence that counts is right unless it is idle: it does not entail the
    sentence by itself, and the others do without it. Citations of a sentence that does not count are wrong; only those
    of a sentence that cites a passage that there is not are neither.

    Args:
        answers: [N] answers with citations.
        passages: [N] the passages of each, rendered, in the order of their numbers.
        entails: Asked three times, each time with all pairs at once: of sentences, of single citations, and of what is
            left without one.
        most_cited: Citations of a sentence that count, the first ones.

    Raises:
        ValueError: `entails` gave another number of verdicts than it was asked for.
    """
    texts = [cited_sentences(answer) for answer in answers]
    judged: dict[tuple[int, int], _Judged] = {}
    for number, (sentences, shown) in enumerate(zip(texts, passages, strict=True)):
        for place, one in enumerate(sentences):
            if one.cited and all(1 <= cited <= len(shown) for cited in one.cited):
                judged[number, place] = _Judged(one.text, [shown[cited - 1] for cited in one.cited[:most_cited]])
    hits = _right_citations(list(judged.values()), entails)
    right = dict(zip(judged, hits, strict=True))
    return [_score(number, len(sentences), judged, right) for number, sentences in enumerate(texts)]


@dataclass(frozen=True)
class _Judged:
    """A sentence that cites passages that there are."""

    text: str
    cited: list[str]

    def together(self, leave_out: int | None = None) -> tuple[str, str]:
        """What it cites, all but one, and the sentence."""
        return "\n".join(text for place, text in enumerate(self.cited) if place != leave_out), self.text


def _right_citations(sentences: Sequence[_Judged], entails: Entails) -> list[int | None]:
    """[N] how many citations of each sentence are right; None: all of them together do not entail it."""
    known: dict[tuple[str, str], bool] = {}
    _ask(entails, known, [one.together() for one in sentences])
    several = [one for one in sentences if known[one.together()] and len(one.cited) > 1]
    _ask(entails, known, [(text, one.text) for one in several for text in one.cited])
    places = [(one, place) for one in several for place, text in enumerate(one.cited) if not known[text, one.text]]
    _ask(entails, known, [one.together(leave_out=place) for one, place in places])

    def right(one: _Judged) -> int | None:
        if not known[one.together()]:
            return None
        if len(one.cited) == 1:
            return 1
        return sum(known[text, one.text] or not known[one.together(place)] for place, text in enumerate(one.cited))

    return [right(one) for one in sentences]


def _ask(entails: Entails, known: dict[tuple[str, str], bool], pairs: Sequence[tuple[str, str]]) -> None:
    """Ask of each pair that is not known yet whether its first entails its second."""
    new = [pair for pair in dict.fromkeys(pairs) if pair not in known]
    if new:
        said = entails([premise for premise, _ in new], [hypothesis for _, hypothesis in new])
        known |= dict(zip(new, said, strict=True))


def _score(
    number: int,
    sentences: int,
    judged: Mapping[tuple[int, int], _Judged],
    right: Mapping[tuple[int, int], int | None],
) -> CitationScore:
    mine = [(number, place) for place in range(sentences) if (number, place) in judged]
    cited = sum(len(judged[key].cited) for key in mine)
    counted = [found for key in mine if (found := right[key]) is not None]
    return CitationScore(
        recall=len(counted) / sentences if sentences else 0.0, precision=sum(counted) / cited if cited else 0.0
    )
