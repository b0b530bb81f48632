"""BM25 over passages against its formula, and two lists joined by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from retro.common.errors import ConfigError, DataError
from retro.qa.question import Context
from retro.recipes.dense_retriever.evaluation.word_search import FOLDER, HybridPassages, Recorded, WordSearch
from retro.recipes.passages.layouts import Passage
from retro.recipes.passages.passages import Passages
from tests.recipes.passages.world import write_jsonl

TEXTS = ("a river runs", "a river and a river bed", "the garden", "nothing here")
TITLES = ("", "", "Rose", "")


def passages_in(folder: Path, texts: Sequence[str] = TEXTS, titles: Sequence[str] = TITLES) -> Passages:
    made = [Passage(f"p{number}", title, text) for number, (text, title) in enumerate(zip(texts, titles, strict=True))]
    return Passages.open(write_jsonl(folder / "passages.jsonl", made), folder / "store")


def names(found: Sequence[Sequence[Any]]) -> list[list[str]]:
    return [[one.document_id for one in passages] for passages in found]


def test_scores_are_those_of_the_formula(tmp_path: Path) -> None:
    search = WordSearch.open(passages_in(tmp_path), tmp_path / "store")
    [found] = search.search(["RIVER"], 10)
    # Lucene's: ln(1 + (N - n + 0.5) / (n + 0.5)) tf / (tf + k1 (1 - b + b length / mean)), k1 = 0.9, b = 0.4; mean
    # length (3 + 6 + 3 + 2) / 4.
    weight = math.log(1 + (4 - 2 + 0.5) / (2 + 0.5))
    scores = {
        f"p{number}": weight * times / (times + 0.9 * (0.6 + 0.4 * length / 3.5))
        for number, times, length in ((0, 1, 3), (1, 2, 6))
    }
    assert {one.document_id: one.score for one in found} == pytest.approx(scores, rel=1e-5)
    assert names([found]) == [["p1", "p0"]]
    assert found[0].text == TEXTS[1]


def test_titles_are_searched_unless_they_are_left_out(tmp_path: Path) -> None:
    passages = passages_in(tmp_path)
    assert names(WordSearch.open(passages, tmp_path / "store").search(["rose"], 2)) == [["p2"]]
    without = WordSearch.open(passages, tmp_path / "store", title=False)
    assert names(without.search(["rose", "garden", " "], 2)) == [[], ["p2"], []]


def test_an_index_is_kept_and_made_again_for_other_settings(tmp_path: Path) -> None:
    passages = passages_in(tmp_path)
    first = WordSearch.open(passages, tmp_path / "store")
    made = (tmp_path / "store" / FOLDER / "manifest.json").stat().st_mtime_ns
    again = WordSearch.open(passages, tmp_path / "store")
    assert (tmp_path / "store" / FOLDER / "manifest.json").stat().st_mtime_ns == made
    assert again.identity == first.identity
    assert WordSearch.open(passages, tmp_path / "store", title=False).identity != first.identity


def test_passages_without_a_word_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no passage with a word in it"):
        WordSearch.open(passages_in(tmp_path, ["...", "?!"], ["", ""]), tmp_path / "store")


def test_a_search_for_no_passage_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="n_docs = 0"):
        WordSearch.open(passages_in(tmp_path), tmp_path / "store").search(["river"], 0)


class Fixed:
    """A retriever that finds what it was made with."""

    identity: Mapping[str, Any] = {"kind": "fixed"}

    def __init__(self, *found: str) -> None:
        self.found = found

    def search(self, queries: Sequence[str], n: int) -> list[list[Context]]:
        return [[Context("", "", one) for one in self.found[:n]] for _ in queries]


def test_lists_are_joined_by_the_sum_of_reciprocal_ranks(tmp_path: Path) -> None:
    # p1 is second in both: 2 / 62. p0: 1 / 61 + 1 / 63 is more. p3: 1 / 61. p2: 1 / 63.
    dense, words = Fixed("p0", "p1", "p2"), Fixed("p3", "p1", "p0")
    hybrid = HybridPassages(dense, words, passages_in(tmp_path), 60, 3)
    [found] = hybrid.search(["x"], 4)
    assert [one.document_id for one in found] == ["p0", "p1", "p3", "p2"]
    assert [one.score for one in found] == pytest.approx([1 / 61 + 1 / 63, 2 / 62, 1 / 61, 1 / 63])
    # Lists are as long as the depth, however few are wanted of them.
    assert names(hybrid.search(["x"], 1)) == [["p0"]]


def test_what_was_found_is_found_again(tmp_path: Path) -> None:
    recorded = Recorded({"x": ("p0", "p1"), "y": ()})
    assert names(recorded.search(["y", "x"], 1)) == [[], ["p0"]]
    hybrid = HybridPassages(recorded, Recorded({"x": ("p1",)}), passages_in(tmp_path), 60, 3)
    assert names(hybrid.search(["x"], 3)) == [["p1", "p0"]]
    assert hybrid.identity != HybridPassages(recorded, recorded, passages_in(tmp_path), 60, 3).identity
    with pytest.raises(KeyError, match="z"):
        recorded.search(["z"], 1)


def test_a_list_without_passages_leaves_the_other_one(tmp_path: Path) -> None:
    hybrid = HybridPassages(Fixed(), Fixed("p2", "p0"), passages_in(tmp_path), 60, 5)
    assert names(hybrid.search(["x", "y"], 5)) == [["p2", "p0"]] * 2
