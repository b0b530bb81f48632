"""From texts to words, as numbers: what BM25 counts.

Words are runs of letters, digits and underscores, compared without regard to case; nothing is stemmed and no word is
left out, since frequent ones weigh next to nothing. Signs of languages that are written without spaces are words of
their own. Words and not the corpus's tokens, because questions do not spell them alike: "Json" at the beginning of a
sentence is other tokens than "json" within one.
"""

# Dims in this file. N texts   P pairs of a text and a word in it

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")
"""Japanese and Chinese signs one by one, other words whole."""


def words_of(text: str) -> list[str]:
    """The words of a text, in order, each as often as it occurs."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def word_number(word: str) -> int:
    """A number for a word, 0 to 2^64: of ten million words two have the same one with a chance of 3 in a million.

    Numbers need no table of texts, which would have to be built by one worker and held in memory by every reader.
    """
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


class Occurrences(NamedTuple):
    """Which words occur in which texts, ordered by word and then by text."""

    word_P: NDArray[np.uint64]
    row_P: NDArray[np.int64]
    """The text's number."""
    count_P: NDArray[np.uint32]
    """How often the word occurs in it, at least once."""


def occurrences(texts: Sequence[str], first_row: int) -> Occurrences:
    """Count the words of texts.

    Args:
        texts: [N] texts.
        first_row: Number of the first one.
    """
    number_of: dict[str, int] = {}
    words, rows, counts = list[int](), list[int](), list[int]()
    for row, text in enumerate(texts, start=first_row):
        for word, count in Counter(words_of(text)).items():
            if word not in number_of:
                number_of[word] = word_number(word)
            words.append(number_of[word])
            rows.append(row)
            counts.append(count)
    word_P, row_P = np.array(words, dtype=np.uint64), np.array(rows, dtype=np.int64)
    order_P = np.argsort(word_P, kind="stable")  # rows ascend already
    return Occurrences(word_P[order_P], row_P[order_P], np.array(counts, dtype=np.uint32)[order_P])
