from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retro.common.row_set import RowSet
from retro.index.bm25.postings import occurrences, word_number, words_of
from retro.index.config import Bm25Config
from tests.index.words import index_of, index_of_pieces

bm25s = pytest.importorskip("bm25s")
FOUR = ["a b", "a a c", "b c d", "d"]
LN2 = math.log(2)


def found(texts: list[str], query: str, out: Path, k: int = 4, **config: Any) -> list[tuple[int, float]]:
    index = index_of(texts, out, Bm25Config(**config))
    ids, scores = index.search(index.queries([query]), k, RowSet.of(range(len(texts))))
    return [(row, score) for row, score in zip(ids[0].tolist(), scores[0].tolist(), strict=True) if row >= 0]


def test_scores_of_four_texts_without_regard_to_length(tmp_path: Path) -> None:
    # Each word is in two of four texts: ln(1 + 2.5 / 2.5) = ln 2; a count of n adds n / (1 + n) of it.
    # Text 1 has a twice and c once: 2/3 + 1/2. Texts 0 and 2 have one of the words once; of these equals the lower
    # row comes first. Text 3 has neither and is not found.
    hits = found(FOUR, "a c", tmp_path, k1=1, b=0)
    assert [row for row, _ in hits] == [1, 0, 2]
    assert [score for _, score in hits] == pytest.approx([7 / 6 * LN2, LN2 / 2, LN2 / 2])


def test_scores_of_four_texts_by_their_length(tmp_path: Path) -> None:
    # Lengths 2, 3, 3 and 1, 2.25 on average; with b = 1 a count n in a text of length l adds n / (l / 2.25 + n).
    hits = found(FOUR, "a c", tmp_path, k1=1, b=1)
    assert [row for row, _ in hits] == [1, 0, 2]
    assert [score for _, score in hits] == pytest.approx([(0.6 + 3 / 7) * LN2, 9 / 17 * LN2, 3 / 7 * LN2])


def test_a_word_asked_for_twice_counts_twice(tmp_path: Path) -> None:
    hits = found(FOUR, "d d", tmp_path, k1=1, b=0)
    assert [row for row, _ in hits] == [2, 3]
    assert [score for _, score in hits] == pytest.approx([LN2, LN2])


def test_a_query_of_unknown_words_finds_nothing(tmp_path: Path) -> None:
    assert found(FOUR, "e ?!", tmp_path) == []


def test_of_many_equals_the_lowest_rows_are_kept(tmp_path: Path) -> None:
    assert [row for row, _ in found(["same words"] * 9 + ["others"], "same", tmp_path, k=4)] == [0, 1, 2, 3]


def test_only_the_rows_asked_for_are_found(tmp_path: Path) -> None:
    index = index_of(["w"] * 6, tmp_path, Bm25Config())
    ids, scores = index.search(index.queries(["w"]), 4, RowSet.of(range(1, 3), range(4, 6), removed=[4]))
    assert ids.tolist() == [[1, 2, 5, -1]]
    assert np.isneginf(scores[0, 3])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Json.dumps(x_1)", ["json", "dumps", "x_1"]),
        ("STRASSE und Straße", ["strasse", "und", "strasse"]),
        ("日本語 text", ["日", "本", "語", "text"]),
        ("caf\u00e9 cafe\u0301", ["café", "café"]),
        ("... ---", []),
    ],
)
def test_words_are_runs_of_letters_whatever_their_case(text: str, words: list[str]) -> None:
    assert words_of(text) == words


def test_occurrences_are_ordered_by_word_and_then_by_text() -> None:
    counted = occurrences(["b a a", "", "a"], 7)
    pairs = zip(counted.word_P.tolist(), counted.row_P.tolist(), counted.count_P.tolist(), strict=True)
    a, b = word_number("a"), word_number("b")
    assert list(pairs) == sorted([(a, 7, 2), (a, 9, 1), (b, 7, 1)])


def random_texts(seed: int, count: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(f"w{word}" for word in rng.zipf(1.4, rng.integers(0, 30)) % 60) for _ in range(count)]


@pytest.mark.parametrize("method", ["lucene", "robertson", "atire", "bm25l", "bm25+"])
@pytest.mark.parametrize("pieces", [1, 4])
def test_scores_are_those_of_bm25s_over_the_whole(
    method: Any, pieces: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Both ways of scoring given chunks: adding up everything, and looking them up.
    monkeypatch.setattr("retro.index.bm25.reader._LOOK_UP", 0 if pieces == 1 else 5)
    texts, queries = random_texts(1, 90), random_texts(2, 12)
    index = index_of(texts, tmp_path, Bm25Config(method=method, k1=1.3, b=0.6, delta=0.7), pieces)
    library = bm25s.BM25(method=method, k1=1.3, b=0.6, delta=0.7)
    library.index([words_of(text) for text in texts], show_progress=False)
    known = set(library.vocab_dict)
    for query in queries:
        words = [word for word in words_of(query) if word in known]
        if not words:
            continue
        wanted = library.get_scores(words)
        everything = np.arange(90)[None]
        np.testing.assert_array_equal(index.scores(index.queries([query]), everything)[0], wanted)
        # Of them, those that share a word with the query: highest first, of equals the lowest row.
        # (To robertson a word that most texts have weighs nothing.)
        shares = [row for row in range(90) if set(words_of(texts[row])) & set(words) and wanted[row] > 0]
        best = sorted(shares, key=lambda row: (-wanted[row], row))[:10]
        ids, _ = index.search(index.queries([query]), 10, RowSet.of(range(90)))
        assert [row for row in ids[0].tolist() if row >= 0] == best


def test_scores_are_those_of_the_formula(tmp_path: Path) -> None:
    texts, (query,) = random_texts(3, 40), random_texts(4, 1)
    index = index_of(texts, tmp_path, Bm25Config(k1=1.2, b=0.75))
    counts = [Counter(words_of(text)) for text in texts]
    mean = sum(sum(count.values()) for count in counts) / 40
    for row, count in enumerate(counts):
        wanted = 0.0
        for word in words_of(query):
            holding = sum(word in other for other in counts)
            if holding and count[word]:
                weight = math.log(1 + (40 - holding + 0.5) / (holding + 0.5))
                wanted += weight * count[word] / (count[word] + 1.2 * (0.25 + 0.75 * sum(count.values()) / mean))
        score = index.scores(index.queries([query]), np.array([[row]]))[0, 0]
        assert score == pytest.approx(wanted, rel=1e-5)


def test_an_index_that_grew_is_the_one_of_all_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retro.index.bm25.reader._PAIRS_AT_ONCE", 7)
    texts = random_texts(5, 50)
    old = index_of(texts[:30], tmp_path / "old", Bm25Config())
    index_of_pieces([*old.occurrences(), occurrences(texts[30:], 30)], 50, tmp_path / "grown", Bm25Config())
    index_of(texts, tmp_path / "whole", Bm25Config())
    for path in (tmp_path / "whole").glob("*.npy"):
        assert path.read_bytes() == (tmp_path / "grown" / path.name).read_bytes()
