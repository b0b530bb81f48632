from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from retro.common.errors import ConfigError
from retro.corpus.reader import Corpus
from retro.db.reader import ChunkDatabase
from retro.index.bm25 import build
from retro.index.config import Bm25Config, SearchConfig
from retro.index.retriever import Retriever
from retro.index.search import BM25, DENSE, TextSearch, fuse, open_search
from retro.index.searcher import Searcher
from retro.run.config import RunConfig

pytest.importorskip("bm25s")
BY_WORDS, HYBRID, RERANKED = SearchConfig(source="bm25"), SearchConfig(source="hybrid"), SearchConfig(rerank="bm25")


def ids(*rows: list[int]) -> NDArray[np.int64]:
    return np.array(rows, dtype=np.int64)


def test_ranks_of_two_lists_are_joined() -> None:
    # Row 7: 1/61 + 1/62. Rows 5 and 3 are first in the one list and third in no other: 1/62 and 1/61; row 9: 1/63.
    found = fuse([(DENSE, ids([7, 5, -1])), (BM25, ids([3, 7, 9]))], 60, 5)
    assert found.ids_QC.tolist() == [[7, 3, 5, 9, -1]]
    assert found.scores_QC[0, :4].tolist() == pytest.approx([1 / 61 + 1 / 62, 1 / 61, 1 / 62, 1 / 63])
    assert np.isneginf(found.scores_QC[0, 4])
    assert found.origin_QC.tolist() == [[DENSE + BM25, BM25, DENSE, BM25, 0]]


def test_of_equal_sums_the_lower_row_comes_first_and_the_rest_is_cut() -> None:
    found = fuse([(DENSE, ids([8, 2])), (BM25, ids([2, 8]))], 60, 1)
    assert found.ids_QC.tolist() == [[2]]


def test_a_smaller_constant_lets_the_first_ranks_decide() -> None:
    # At 1 the first place of row 4 (1/2) outweighs a third and a fourth (1/4 + 1/5); at 60 it does not.
    lists = [(DENSE, ids([4, 1, 6])), (BM25, ids([5, 2, 3, 6]))]
    assert fuse(lists, 1, 1).ids_QC.tolist() == [[4]]
    assert fuse(lists, 60, 1).ids_QC.tolist() == [[6]]


@pytest.fixture(scope="module")
def index_with_words(index_dir: Path, db_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = shutil.copytree(index_dir, tmp_path_factory.mktemp("both") / "3_index")
    build.run(Bm25Config(), index_dir.parent / "1_corpus", db_dir, out / "bm25")
    return out


def texts_of(db: ChunkDatabase) -> list[str]:
    return [db.text(row) for row in range(0, db.rows, 7)]


def test_a_hybrid_search_joins_what_both_find(index_with_words: Path, db: ChunkDatabase) -> None:
    dense, words, both = (open_search(one, index_with_words, db) for one in (SearchConfig(), BY_WORDS, HYBRID))
    texts, k = texts_of(db), 5
    lists = [(origin, one.search(one.prepare(texts), k).ids_QC) for origin, one in ((DENSE, dense), (BM25, words))]
    wanted, found = fuse(lists, 60, k), both.search(both.prepare(texts), k)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)
    assert set(both.parents) == {"index", "bm25"}


def test_a_text_without_words_is_not_searched_for_by_vectors(index_with_words: Path, db: ChunkDatabase) -> None:
    for config in (BY_WORDS, HYBRID, RERANKED):
        search = open_search(config, index_with_words, db)
        queries = search.prepare(["", db.text(3)])
        assert queries.has_text_Q.tolist() == [False, True]
        found = search.search(queries, 4)
        assert (found.ids_QC[0] == -1).all()
        assert (found.ids_QC[1] >= 0).any()


def test_candidates_of_the_vectors_are_ordered_by_words(index_with_words: Path, db: ChunkDatabase) -> None:
    dense, words = (open_search(one, index_with_words, db) for one in (SearchConfig(), BY_WORDS))
    search = open_search(SearchConfig(rerank="bm25", rerank_depth=20), index_with_words, db)
    texts = texts_of(db)
    found = search.search(search.prepare(texts), 6)
    candidates = dense.search(dense.prepare(texts), 20).ids_QC
    scores = words.index.scores(words.index.queries(texts), candidates)  # type: ignore[attr-defined]
    for query in range(len(texts)):
        ranked = sorted(range(20), key=lambda place: (-scores[query, place], place))[:6]
        assert found.ids_QC[query].tolist() == candidates[query, ranked].tolist()
        assert found.scores_QC[query].tolist() == scores[query, ranked].tolist()
    assert (found.origin_QC == DENSE).all()


def test_a_search_deeper_than_the_depth_orders_all_that_is_found(index_with_words: Path, db: ChunkDatabase) -> None:
    search = open_search(SearchConfig(rerank="bm25", rerank_depth=2), index_with_words, db)
    found = search.search(search.prepare([db.text(0)]), 9)
    assert (found.ids_QC >= 0).all()
    assert (np.diff(found.scores_QC) <= 0).all()


@pytest.mark.parametrize("config", [BY_WORDS, HYBRID, RERANKED])
def test_passages_come_by_any_search(
    config: SearchConfig, index_with_words: Path, db: ChunkDatabase, corpus: Corpus
) -> None:
    search: TextSearch = open_search(config, index_with_words, db)
    retriever = Retriever(search, db, corpus)
    texts = [db.text(row) for row in (0, 40, 90)]
    found = retriever.retrieve(texts, 3)
    assert all(passages[0].text.startswith(text.strip()) for passages, text in zip(found, texts, strict=True))
    assert all(len({passage.row for passage in passages}) == len(passages) for passages in found)


def test_a_plain_searcher_is_one_by_vectors(searcher: Searcher, db: ChunkDatabase, corpus: Corpus) -> None:
    plain = Retriever(searcher, db, corpus).retrieve([db.text(5)], 2)
    assert plain == Retriever(open_search(SearchConfig(), db.directory.parent / "3_index", db), db, corpus).retrieve(
        [db.text(5)], 2
    )


@pytest.mark.parametrize("source", ["bm25", "hybrid"])
def test_what_words_found_is_not_ordered_by_words_again(source: str) -> None:
    with pytest.raises(ConfigError, match=r"SearchConfig\.rerank = 'bm25': needs to be none with source"):
        SearchConfig(source=source, rerank="bm25")


def test_a_search_is_named_by_what_changes_it() -> None:
    assert SearchConfig(rrf_constant=5, rerank_depth=7).search_settings == {}
    assert SearchConfig(source="bm25", rrf_constant=5).search_settings == {"source": "bm25", "rerank": "none"}
    assert SearchConfig(source="hybrid").search_settings == {"source": "hybrid", "rerank": "none", "rrf_constant": 60}
    assert RERANKED.search_settings == {"source": "dense", "rerank": "bm25", "rerank_depth": 1000}


def test_a_run_without_vectors_needs_every_search_to_be_by_words() -> None:
    none = {"embedder": {"kind": "bm25"}}
    run = RunConfig(index=none, neighbors={"source": "bm25"}, search={"source": "bm25"})
    assert run.reads_words
    with pytest.raises(ConfigError, match=r"search\.source = 'hybrid': needs to be 'bm25' with index\.embedder"):
        RunConfig(index=none, neighbors={"source": "bm25"}, search={"source": "hybrid"})
    assert not RunConfig().reads_words
    assert RunConfig(search={"rerank": "bm25"}).reads_words
