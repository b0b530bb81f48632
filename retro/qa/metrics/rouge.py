"""ROUGE-Lsum as the scorers of long answers take it (Lin 2004; ASQA, Stelmakh et al. 2022): sentences of stems.

The longest common subsequences of each gold sentence with all sentences of the prediction are joined; a word counts as
often as both texts have it.
"""

# Dims in this file. G words of a gold sentence   P words of a sentence of the prediction

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

from retro.qa.metrics.normalize import golds_of

_WORD = re.compile(r"[a-z0-9]+")
# Official scorers have nltk find sentences, with a model that is fetched; words in which both part one differ little.
_BETWEEN_SENTENCES = re.compile(r"(?<=[.!?])[\"')\]]*\s+|\n+")
# Shorter words stay as they are, as the rouge-score package has it.
_STEMMED_FROM = 4

Sentences = list[list[str]]


def rouge_lsum(prediction: str, answers: Sequence[str]) -> float:
    """F-measure of summary-level ROUGE-L over stemmed words, the best over all gold answers."""
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
