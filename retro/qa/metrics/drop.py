"""DROP's metrics (Dua et al. 2019, arXiv:1903.00161): exact match and F1 over numbers, dates and bags of spans."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from retro.common.json_files import JsonError, parse_json

# Dims in this file.
#   G spans of a gold answer   P spans of the prediction

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_BETWEEN_SPANS = re.compile(r"\s*[,;]\s*(?:and\s+)?|\s+and\s+")

Gold = Sequence[str]
"""The spans that are one answer together."""


def drop_em(prediction: str, golds: Sequence[Gold], *, part: bool = False) -> float:
    """1 if the prediction's spans are those of any gold answer, in any order; `part` as for `drop_f1`."""
    return float(any(_same(gold, _spans_for(prediction, gold, part=part)) for gold in golds))


def drop_f1(prediction: str, golds: Sequence[Gold], *, part: bool = False) -> float:
    """F1 of the spans, aligned as well as can be, to two digits as official; the best over all gold answers.

    Args:
        prediction: What was said.
        golds: Gold answers, each of one span or more.
        part: Part the prediction at commas and "and" where the gold answer has several spans. No official rule: it
            uses of the gold answer how many spans it has, and scores a text far higher.
    """
    return max(_aligned_f1(gold, _spans_for(prediction, gold, part=part)) for gold in golds)


def spans_said(prediction: str) -> list[str]:
    """The prediction as spans: one, unless it is given as several, as a JSON list of texts."""
    if prediction.lstrip().startswith("["):
        try:
            found = parse_json(prediction)
        except JsonError:
            return [prediction]
        if isinstance(found, list) and found and all(isinstance(one, str) for one in found):
            return found
    return [prediction]


def _spans_for(prediction: str, gold: Gold, *, part: bool) -> list[str]:
    said = spans_said(prediction)
    if not part or len(gold) == 1 or len(said) > 1:
        return said
    return [one for one in _BETWEEN_SPANS.split(prediction.strip()) if one] or [prediction]


def normalize(text: str) -> str:
    """Lower case, no punctuation, no articles; hyphens part words; numbers are compared as numbers."""
    tokens = [_normalize_token(token) for token in re.split(r"[ -]", text)]
    return " ".join(token for token in tokens if token)


def _normalize_token(token: str) -> str:
    low = token.lower()
    bare = low if _is_number(low) else low.translate(_PUNCTUATION)
    number = str(float(bare)) if _is_number(bare) else bare
    return " ".join(_ARTICLES.sub(" ", number).split())


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _same(gold: Gold, said: Sequence[str]) -> bool:
    return len(gold) == len(said) and {normalize(one) for one in gold} == {normalize(one) for one in said}


def _aligned_f1(gold: Gold, said: Sequence[str]) -> float:
    scores_GP = np.array([[_bag_f1(_bag(one), _bag(other)) for other in said] for one in gold])
    # numpy's rounding, as official: halves in the decimal fraction, not in the binary one.
    return float(np.round(best_total(scores_GP) / max(len(gold), len(said)), 2))


def _bag(span: str) -> set[str]:
    return set(normalize(span).split())


def _bag_f1(gold: set[str], said: set[str]) -> float:
    numbers = {word for word in gold if _is_number(word)}
    if numbers and not numbers & said:
        # A span with another number is wrong, whatever unit is beside it.
        return 0.0
    shared = len(gold & said)
    # Two spans of nothing but articles and punctuation are equal, and one of them is like nothing else.
    precision = shared / len(said) if said else 1.0
    recall = shared / len(gold) if gold else 1.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def best_total(scores_GP: NDArray[np.float64]) -> float:
    """The largest sum that pairs of a row and a column give, no row or column standing in two pairs.

    The Hungarian method with potentials, rows one after another; O(n³) for n rows and columns.
    """
    size = max(scores_GP.shape)
    cost = np.zeros((size, size))
    cost[: scores_GP.shape[0], : scores_GP.shape[1]] = -scores_GP
    row_of = np.full(size + 1, -1)
    u, v = np.zeros(size + 1), np.zeros(size + 1)
    for row in range(size):
        row_of[size] = row
        column, came_from = _shortest_path(cost, row_of, u, v)
        while column != size:
            row_of[column] = row_of[came_from[column]]
            column = came_from[column]
    return float(-sum(cost[row_of[column], column] for column in range(size)))


def _shortest_path(
    cost: NDArray[np.float64], row_of: NDArray[np.int64], u: NDArray[np.float64], v: NDArray[np.float64]
) -> tuple[int, NDArray[np.int64]]:
    """The free column at the end of the cheapest path from the row that waits at the last place, and the way there.

    Changes the potentials `u` of rows and `v` of columns on the way.
    """
    size = len(cost)
    distance, came_from = np.full(size, np.inf), np.full(size, size)
    seen = np.zeros(size + 1, dtype=bool)
    column = size
    while row_of[column] != -1:
        seen[column] = True
        row = row_of[column]
        reduced = cost[row] - u[row] - v[:size]
        better = ~seen[:size] & (reduced < distance)
        distance[better], came_from[better] = reduced[better], column
        following = int(np.where(seen[:size], np.inf, distance).argmin())
        step = distance[following]
        u[row_of[seen]] += step
        v[seen] -= step
        distance[~seen[:size]] -= step
        column = following
    return column, came_from
