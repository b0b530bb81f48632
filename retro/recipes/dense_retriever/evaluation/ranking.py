"""How well passages are ranked: pure functions of one question's list, and nDCG by ir_measures.

A list is judged in three units. `segment`: the passage is one of those that are marked as relevant. `document`: it was
cut from a document that is. `answer`: its text holds an answer string, by the rule of DPR (Karpukhin et al. 2020,
arXiv:2004.04906): the answer's words, uncased and in Unicode's NFD, follow each other among the passage's.

In each unit `top5` is 1 if one of the first five counts, `mrr10` is 1 over the rank of the first that counts, 0 beyond
the tenth, and `mrr` the same without a limit. `ndcg10` reads the grades of relevant segments, and `recall100` is
the share of them among the first hundred.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import regex

from retro.common.optional import import_optional

# Dims in this file. K ranked passages of a question

_WORD = regex.compile(r"[\p{L}\p{N}\p{M}]+|[^\p{Z}\p{C}]")
"""DPR's SimpleTokenizer: runs of letters, digits and marks, and every other visible sign by itself."""
UNITS = ("segment", "document", "answer")
MRR_DEPTH, NDCG_DEPTH = 10, 10


def normalized_words(text: str) -> str:
    """The words of a text by DPR's rule, each between blanks: what holds it whole holds them in order."""
    found = _WORD.findall(unicodedata.normalize("NFD", text))
    return f" {' '.join(found).lower()} " if found else ""


def has_answer(words: str, answers: Iterable[str]) -> bool:
    """Whether a passage holds one of the answers.

    Args:
        words: The passage, by `normalized_words`.
        answers: Both, by `normalized_words`; one without a word is in no passage.
    """
    return any(answer and answer in words for answer in answers)


def first_rank(counts_K: Sequence[bool]) -> int | None:
    """The rank, from 1, of the first passage that counts; None where none does.

    Args:
        counts_K: [K] of each passage, best first, whether it counts.
    """
    return next((rank for rank, one in enumerate(counts_K, start=1) if one), None)


def top(rank: int | None, k: int) -> float:
    """1 if the first passage that counts is among the first `k`, else 0."""
    return float(rank is not None and rank <= k)


def reciprocal_rank(rank: int | None, within: int | None = None) -> float:
    """1 over the rank of the first passage that counts; 0 where there is none, or none within so many."""
    return 0.0 if rank is None or (within is not None and rank > within) else 1.0 / rank


def unit_values(unit: str, counts_K: Sequence[bool], at: Sequence[int]) -> dict[str, float]:
    """The values of a question in one unit.

    Args:
        unit: Its name, for the names of the values.
        counts_K: [K] of each passage, best first, whether it counts; fewer than the greatest of `at` where no more
            were found.
        at: Numbers of passages among which one has to count.
    """
    rank = first_rank(counts_K)
    return {
        **{f"{unit}_top{k}": top(rank, k) for k in at},
        f"{unit}_mrr{MRR_DEPTH}": reciprocal_rank(rank, MRR_DEPTH),
        f"{unit}_mrr": reciprocal_rank(rank),
    }


def recall(ranked: Sequence[str], relevant: Mapping[str, int], k: int) -> float:
    """Share of the relevant passages that are among the first `k`; 0 where nothing is relevant."""
    wanted = {name for name, grade in relevant.items() if grade > 0}
    return len(wanted.intersection(ranked[:k])) / len(wanted) if wanted else 0.0


def ndcg(rankings: Mapping[str, Sequence[str]], relevant: Mapping[str, Mapping[str, int]]) -> dict[str, float]:
    """nDCG@10 of each question by ir_measures, as trec_eval has it: Σ grade / log2(rank + 1) over the same sum of the
    best order. Equal scores keep the order given: ranks are what is passed on.

    Args:
        rankings: By question, ids of passages, best first, each once.
        relevant: By question, the grade of each passage that is judged, 0 or more.

    Returns:
        A value for each question of `relevant`; 0 where nothing relevant was found, or there is nothing.

    Raises:
        DependencyError: ir_measures is missing.
        ValueError: A passage is twice in a ranking.
    """
    measures = ir_measures()
    run = {name: _scored(name, ranked) for name, ranked in rankings.items() if ranked}
    judged = {name: dict(grades) for name, grades in relevant.items()}
    found = dict.fromkeys(relevant, 0.0)
    if run and any(judged.values()):
        for one in measures.iter_calc([measures.nDCG @ NDCG_DEPTH], judged, run):
            found[one.query_id] = float(one.value)
    return found


def ir_measures() -> Any:
    """The package ir_measures.

    Raises:
        DependencyError: It is missing.
    """
    return import_optional("ir_measures", extra="retriever", use="computes nDCG", package="ir-measures")


def _scored(name: str, ranked: Sequence[str]) -> dict[str, float]:
    found = {one: -float(rank) for rank, one in enumerate(ranked)}
    if len(found) < len(ranked):
        raise ValueError(f"a passage is twice in the ranking of question {name!r}")
    return found
