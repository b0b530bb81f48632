"""From counted words to scores: for each word, the chunks that hold it and what it adds to each one's score.

The files and the sums are those of bm25s (Lù 2024, "BM25S: Orders of magnitude faster lexical search via eager sparse
scoring", arXiv:2407.03618): a matrix of scores in columns, computed when it is built, so that a search only adds up.
bm25s builds it in memory, by one process; here it is put together from blocks, through memory maps.

Words are runs of letters, digits and underscores, compared without regard to case; nothing is stemmed and no word is
left out, since frequent ones weigh next to nothing. Signs of languages that are written without spaces are words of
their own. Words and not the corpus's tokens, because questions do not spell them alike: "Json" at the beginning of a
sentence is other tokens than "json" within one.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retro.common.files import atomic_path, require_space
from retro.common.optional import import_optional
from retro.index.config import Bm25Config

# Dims in this file. N texts   P pairs of a text and a word in it


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


# Dims in this file. P pairs of a chunk and a word in it   W distinct words   N chunks


DATA, INDICES, INDPTR = "data.csc.index.npy", "indices.csc.index.npy", "indptr.csc.index.npy"
NOT_THERE = "nonoccurrence_array.index.npy"
"""bm25s's names: scores [P], chunks [P], where each word's chunks begin [W + 1], and for some methods what a word adds
to chunks without it [W]."""
WORDS, COUNTS = "words.npy", "counts.npy"
"""Numbers of the words, ascending [W]; and how often each occurs in each of its chunks [P]."""
Int64 = NDArray[np.int64]


def load_bm25s() -> Any:
    """The package bm25s.

    Raises:
        DependencyError: It is missing.
    """
    instead = "search by vectors alone (neighbors.source=dense, search.source=dense, and no rerank)"
    return import_optional(
        "bm25s", extra="bm25", use="scores chunks by the words they share with a query", instead=instead
    )


@dataclass(frozen=True)
class Totals:
    """What has to be known of all chunks before one can be scored."""

    word_W: NDArray[np.uint64]
    """Ascending."""
    chunks_W: Int64
    """Chunks that hold each word."""
    length_N: Int64
    """Words of each chunk."""

    @property
    def starts(self) -> Int64:
        """[W + 1] where each word's chunks begin."""
        return np.concatenate([[0], np.cumsum(self.chunks_W)])

    @property
    def mean_length(self) -> float:
        """Words of a chunk, on average."""
        return float(self.length_N.mean())


def total(pieces: Iterable[Occurrences], chunks: int) -> Totals:
    """Count words over all pieces, a piece at a time."""
    word_W, chunks_W, length_N = np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros(chunks, np.int64)
    for piece in pieces:
        mine, found = np.unique(piece.word_P, return_counts=True)
        both = np.union1d(word_W, mine)
        summed = np.zeros(len(both), dtype=np.int64)
        summed[np.searchsorted(both, word_W)] = chunks_W
        summed[np.searchsorted(both, mine)] += found
        word_W, chunks_W = both, summed
        np.add.at(length_N, piece.row_P, piece.count_P)
    return Totals(word_W, chunks_W, length_N)


def write_index(
    pieces: Callable[[], Iterator[Occurrences]], totals: Totals, config: Bm25Config, out: Path
) -> list[str]:
    """Write the files of the index; gives their names.

    Args:
        pieces: Gives all occurrences, in pieces that are each ordered by word and then by chunk; for each word the
            chunks of a later piece come after those of an earlier one.
        totals: Of all of them.
        config: The method and its constants.
        out: The folder.

    Raises:
        ArtifactError: The disk is full.
    """
    scores = _Scores(config, totals)
    start_W, size = totals.starts, int(totals.chunks_W.sum())
    with atomic_path(out / DATA) as data, atomic_path(out / INDICES) as indices, atomic_path(out / COUNTS) as counts:
        require_space(data, 12 * size)
        columns = [_new_array(path, kind, size) for path, kind in ((data, "<f4"), (indices, "<i4"), (counts, "<u4"))]
        next_W = start_W[:-1].copy()
        for piece in pieces():
            word_P = np.searchsorted(totals.word_W, piece.word_P)
            mine, first, found = np.unique(word_P, return_index=True, return_counts=True)
            place_P = np.arange(len(word_P)) - np.repeat(first, found) + np.repeat(next_W[mine], found)
            next_W[mine] += found
            for column, values in zip(columns, (scores.of(piece, word_P), piece.row_P, piece.count_P), strict=True):
                column[place_P] = values
        for column in columns:
            column.flush()
        del column, columns
    small: dict[str, NDArray[Any]] = {INDPTR: start_W, WORDS: totals.word_W}
    if scores.not_there_W is not None:
        small[NOT_THERE] = scores.not_there_W
    for name, values in small.items():
        with atomic_path(out / name) as path, path.open("wb") as stream:
            np.save(stream, values)
    return [DATA, INDICES, COUNTS, *small]


def _new_array(path: Path, kind: str, size: int) -> np.memmap[Any, Any]:
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(kind), shape=(size,))


class _Scores:
    """bm25s's formulas, for many pairs at once."""

    def __init__(self, config: Bm25Config, totals: Totals) -> None:
        bm25s = load_bm25s()
        self._constants = {"k1": config.k1, "b": config.b, "delta": config.delta, "l_avg": totals.mean_length}
        self._length_N = totals.length_N
        self._of_count = bm25s.scoring._select_tfc_scorer(config.method)
        of_word = bm25s.scoring._select_idf_scorer(config.method)
        kinds, place_W = np.unique(totals.chunks_W, return_inverse=True)
        weight_W = np.array([of_word(int(chunks), N=len(totals.length_N)) for chunks in kinds])[place_W]
        self._weight_W = weight_W.astype(np.float32)
        self.not_there_W: NDArray[np.float32] | None = None
        if config.method in ("bm25l", "bm25+"):
            nothing = self._of_count(tf_array=0, l_d=totals.mean_length, **self._constants)
            self.not_there_W = (weight_W * nothing).astype(np.float32)

    def of(self, piece: Occurrences, word_P: Int64) -> NDArray[np.float32]:
        """[P] what each word adds to the score of its chunk."""
        counts = piece.count_P.astype(np.float32)
        lengths = self._length_N[piece.row_P].astype(np.float64)
        scores = self._weight_W[word_P] * self._of_count(tf_array=counts, l_d=lengths, **self._constants)
        if self.not_there_W is not None:
            scores = scores - self.not_there_W[word_P]
        return np.asarray(scores, dtype=np.float32)
