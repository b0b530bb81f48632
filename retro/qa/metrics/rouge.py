"""ROUGE-1, ROUGE-2, ROUGE-L (Lin 2004), and ROUGE-Lsum as scorers of long answers take it (ASQA, Stelmakh et al. 2022).

ROUGE-Lsum goes over sentences of stems: the longest common subsequences of each gold sentence with all sentences of the
prediction are joined; a word counts as often as both texts have it.
"""

# Dims in this file. G words of a gold sentence   P words of a sentence of the prediction

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

from retro.common.optional import import_optional, package_folder
from retro.qa.metrics.normalize import golds_of
from retro.qa.metrics.words import common_subsequence

_WORD = re.compile(r"[a-z0-9]+")
# Official scorers have nltk find sentences, with a model that is fetched; words in which both part one differ little.
_BETWEEN_SENTENCES = re.compile(r"(?<=[.!?])[\"')\]]*\s+|\n+")
# Shorter words stay as they are, as the rouge-score package has it.
_STEMMED_FROM = 4

Sentences = list[list[str]]

PACKAGE = "rouge-score"
"""Computes all where it is installed. Ours are for where it is not, and give the same numbers."""


def rouge_n(prediction: str, answers: Sequence[str], n: int) -> float:
    """F-measure of runs of n words that both texts have (Lin 2004), the best over all gold answers.

    Words as in `rouge_l`; a run counts at most as often as in the text that has it less. 0 for texts below n words.
    """
    scorer = _ngram_scorer(n)
    if scorer is not None:
        return max(float(scorer.score(gold, prediction)[f"rouge{n}"].fmeasure) for gold in golds_of(answers))
    return own_rouge_n(prediction, answers, n)


def rouge_l(prediction: str, answers: Sequence[str]) -> float:
    """F-measure of the longest common subsequence of words (Lin 2004), the best over all gold answers.

    Words are runs of Latin letters and digits, in lower case and unstemmed.
    """
    scorer = _scorer()
    if scorer is not None:
        return max(float(scorer.score(gold, prediction)["rougeL"].fmeasure) for gold in golds_of(answers))
    return own_rouge_l(prediction, answers)


def rouge_lsum(prediction: str, answers: Sequence[str]) -> float:
    """F-measure of summary-level ROUGE-L over stemmed words, the best over all gold answers."""
    scorer = _stemming_scorer()
    if scorer is not None:
        said, golds = _by_line(prediction), [_by_line(gold) for gold in golds_of(answers)]
        return max(float(scorer.score(gold, said)["rougeLsum"].fmeasure) for gold in golds)
    return own_rouge_lsum(prediction, answers)


def _by_line(text: str) -> str:
    """The text with a sentence a line, as the package wants it."""
    return "\n".join(_BETWEEN_SENTENCES.split(text))


@cache
def _ngram_scorer(n: int) -> Any:
    return _of_package(f"rouge{n}", stemmed=False)


@cache
def _scorer() -> Any:
    return _of_package("rougeL", stemmed=False)


@cache
def _stemming_scorer() -> Any:
    return _of_package("rougeLsum", stemmed=True)


def _of_package(kind: str, *, stemmed: bool) -> Any:
    if package_folder("rouge_score") is None:
        return None
    rouge_scorer = import_optional("rouge_score.rouge_scorer", extra="eval", use="computes ROUGE", package=PACKAGE)
    return rouge_scorer.RougeScorer([kind], use_stemmer=stemmed)


def own_rouge_n(prediction: str, answers: Sequence[str], n: int) -> float:
    """As `rouge_n`, without the package."""
    said = _runs(prediction, n)
    return max(_shared(_runs(gold, n), said) for gold in golds_of(answers))


def _runs(text: str, n: int) -> Counter[tuple[str, ...]]:
    words = _WORD.findall(text.lower())
    return Counter(tuple(words[start : start + n]) for start in range(len(words) - n + 1))


def _shared(gold: Counter[tuple[str, ...]], said: Counter[tuple[str, ...]]) -> float:
    common = (gold & said).total()
    if not common:
        return 0.0
    precision, recall = common / said.total(), common / gold.total()
    return 2 * precision * recall / (precision + recall)


def own_rouge_l(prediction: str, answers: Sequence[str]) -> float:
    """As `rouge_l`, without the package."""
    said = _WORD.findall(prediction.lower())
    return max(_rouge_l(_WORD.findall(gold.lower()), said) for gold in golds_of(answers))


def _rouge_l(gold: Sequence[str], said: Sequence[str]) -> float:
    common = common_subsequence(gold, said)
    if common == 0:
        return 0.0
    precision, recall = common / len(said), common / len(gold)
    return 2 * precision * recall / (precision + recall)


def own_rouge_lsum(prediction: str, answers: Sequence[str]) -> float:
    """As `rouge_lsum`, without the package."""
    said = sentences(prediction)
    return max(_f_measure(sentences(gold), said) for gold in golds_of(answers))


def sentences(text: str) -> Sentences:
    """The sentences of a text as stemmed words: runs of Latin letters and digits, in lower case."""
    parts = _BETWEEN_SENTENCES.split(text.lower())
    return [words for part in parts if (words := [_stem(word) for word in _WORD.findall(part)])]


def _stem(word: str) -> str:
    return word if len(word) < _STEMMED_FROM else str(_stemmer().stem(word))


@cache
def _stemmer() -> Any:
    # A tenth of a second, for those who score long answers alone.
    from nltk.stem.porter import PorterStemmer

    return PorterStemmer()


def _f_measure(gold: Sentences, said: Sentences) -> float:
    gold_words, said_words = (Counter(word for words in text for word in words) for text in (gold, said))
    wanted, given = gold_words.total(), said_words.total()
    left, hits = gold_words & said_words, 0
    for sentence in gold:
        joined = sorted({place for other in said for place in _common_places(sentence, other)})
        for word in (sentence[place] for place in joined):
            if left[word] > 0:
                left[word] -= 1
                hits += 1
    if not hits:
        return 0.0
    precision, recall = hits / given, hits / wanted
    return 2 * precision * recall / (precision + recall)


def _common_places(gold: Sequence[str], said: Sequence[str]) -> list[int]:
    """Places in the gold sentence of one longest common subsequence; of several, the one that ends first in it."""
    lengths = [[0] * (len(said) + 1)]
    for word in gold:
        row, above = [0], lengths[-1]
        for place, other in enumerate(said):
            row.append(above[place] + 1 if word == other else max(above[place + 1], row[place]))
        lengths.append(row)
    places, g, p = [], len(gold), len(said)
    while g and p:
        if gold[g - 1] == said[p - 1]:
            g, p = g - 1, p - 1
            places.append(g)
        elif lengths[g][p - 1] > lengths[g - 1][p]:
            p -= 1
        else:
            g -= 1
    return places
