"""Exact match, F1, recall and their intervals. The only normalizer of answers there is.

Definitions of SQuAD (Rajpurkar et al. 2016, arXiv:1606.05250): both metrics are the best over all gold
answers.
"""

# Dims in this file.
#   N questions   T resamples

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retro.common.answers import Answer
from retro.common.qa_data import PassageLike

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)

# Resampled values held at once; 16 MB.
_VALUES_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class Estimate:
    """A mean over questions with its bootstrap interval."""

    mean: float
    low: float
    high: float
    count: int


def normalize_answer(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _comparable(gold: str, prediction: str) -> tuple[str, str]:
    """Both texts normalized; or, where the gold answer is nothing but punctuation and articles, merely
    stripped.

    Otherwise the gold answer `()` would be matched by an empty answer, and by `!`.
    """
    short = normalize_answer(gold)
    return (short, normalize_answer(prediction)) if short else (gold.strip(), prediction.strip())


def _golds(answers: Sequence[str]) -> Sequence[str]:
    # A text is one gold answer; going over its letters would make any one letter a right answer.
    golds = [answers] if isinstance(answers, str) else answers
    if not golds:
        raise ValueError("a question without gold answers cannot be scored")
    return golds


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1 if the prediction equals any gold answer after normalizing, else 0."""
    return float(any(gold == said for gold, said in (_comparable(one, prediction) for one in _golds(answers))))


def f1(prediction: str, answers: Sequence[str]) -> float:
    """Overlap of words with the gold answer that it overlaps most."""
    return max(_f1(*_comparable(gold, prediction)) for gold in _golds(answers))


def _f1(gold: str, prediction: str) -> float:
    gold_words, said_words = gold.split(), prediction.split()
    shared = sum((Counter(gold_words) & Counter(said_words)).values())
    if shared == 0:
        return 0.0
    precision, recall = shared / len(said_words), shared / len(gold_words)
    return 2 * precision * recall / (precision + recall)


METRICS = {"exact_match": exact_match, "f1": f1}


def answer_in_passages(answer: Answer) -> bool:
    """Whether any gold answer stands, as whole words, in the title or text of any passage."""
    return any(_contains(f"{p.title} {p.text}", gold) for p in answer.passages for gold in _golds(answer.answers))


def _contains(text: str, gold: str) -> bool:
    short = normalize_answer(gold)
    return f" {short} " in f" {normalize_answer(text)} " if short else gold.strip() in text


def document_found(passages: Sequence[PassageLike], document_ids: Collection[str], k: int) -> bool:
    """Whether one of the documents is among the first k passages, by id or by title."""
    return any(p.document_id in document_ids or p.title in document_ids for p in passages[:k])


def estimate(values: Sequence[float], *, samples: int, confidence: float, seed: int) -> Estimate:
    """Mean and percentile bootstrap interval of `values`.

    Resampling draws whole questions, so for two settings over the same questions give the differences per
    question: the interval is then that of the paired difference.

    Args:
        values: [N] one per question, at least one.
        samples: Resamples, T.
        confidence: Share of the resampled means inside the interval.
        seed: The same seed and values give the same interval.
    """
    values_N = np.asarray(values, dtype=np.float64)
    means_T = _resampled_means(values_N, samples, np.random.default_rng(seed))
    tail = (1 - confidence) / 2
    low, high = np.quantile(means_T, [tail, 1 - tail]).tolist()
    return Estimate(float(values_N.mean()), low, high, len(values_N))


def _resampled_means(
    values_N: NDArray[np.float64], samples: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    rows = max(1, _VALUES_AT_ONCE // len(values_N))
    means = []
    for start in range(0, samples, rows):
        drawn = generator.integers(0, len(values_N), (min(rows, samples - start), len(values_N)))
        means.append(values_N[drawn].mean(axis=1))
    return np.concatenate(means)
