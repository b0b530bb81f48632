"""BLEU-1 of single answers: clipped precision of words, with the brevity penalty (Papineni et al. 2002), by nltk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from retro.qa.metrics.normalize import Rules

SQUAD = Rules()
_UNIGRAMS = (1.0,)


def bleu_1(prediction: str, answers: Sequence[str], rules: Rules = SQUAD) -> float:
    """Share of the prediction's words that a gold answer has, times exp(1 − r/c) where it is shorter.

    All gold answers are references of one score, as BLEU is defined: a word counts at most as often as in the one that
    has it most, and r is the length that is nearest to the prediction's, c. Words are those that `f1` compares, after
    the task's normalization. Nothing is smoothed: unigrams need no smoothing, and without a common word it is 0.
    """
    pairs = [rules.pair(gold, prediction) for gold in rules.golds_of(answers)]
    score = max(float(gold == said) for gold, said in pairs)
    said = next((said.split() for _, said in pairs if said), [])
    references = [words for gold, _ in pairs if (words := gold.split())]
    if not said or not references:
        # Without words there is nothing to count: right where both say that there is no answer.
        return score
    return float(_sentence_bleu()(references, said, weights=_UNIGRAMS))


@cache
def _sentence_bleu() -> Callable[..., Any]:
    # Half a second, for those who score by it alone.
    from nltk.translate.bleu_score import sentence_bleu

    found: Callable[..., Any] = sentence_bleu
    return found
