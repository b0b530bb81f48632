"""Passages from Python are those that the commands read."""

from __future__ import annotations

import numpy as np
import pytest

from retro import Retriever, Run
from retro.common.errors import ConfigError
from retro.generate.one_question import answer_one
from retro.index.config import SearchConfig
from retro.run.documents import BY_WORDS
from retro.run.pipeline import model_paths

TEXTS = ["river1 river2", "engine3 engine4 engine5", "garden4 planet5 market6"]


@pytest.fixture(scope="module")
def retriever(tuned: Run) -> Retriever:
    return tuned.retriever()


def test_a_search_finds_what_ask_reads(tuned: Run, retriever: Retriever) -> None:
    config = tuned.config
    for text in TEXTS:
        answer = answer_one(
            config.generate,
            config.parallel,
            model_paths(config),
            text,
            passages_from="retriever",
            say=lambda piece: None,
        )
        found = retriever.search(text, 2)
        assert [(one.row, one.document_id, one.title, one.text) for one in found] == [
            (one.row, one.document_id, one.title, one.text) for one in answer.passages
        ]
        assert [one.score for one in found] == pytest.approx([one.score for one in answer.passages], abs=1e-6)


def test_several_texts_find_what_each_finds_alone(retriever: Retriever) -> None:
    found = retriever.search(TEXTS, 3)
    assert [len(one) for one in found] == [3, 3, 3]
    assert [[one.row for one in each] for each in found] == [[one.row for one in retriever.search(t, 3)] for t in TEXTS]
    assert found[1][0].title == "engine"
    assert retriever.search([]) == []


def test_a_vector_is_the_one_that_is_searched_with(retriever: Retriever) -> None:
    vectors = retriever.embed(TEXTS)
    assert (vectors.shape, vectors.dtype) == ((3, 128), np.dtype(np.float32))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(retriever.embed(TEXTS[1]), vectors[1])
    np.testing.assert_array_equal(retriever.embed(""), np.zeros(128))
    rows = np.arange(retriever.database.rows)
    chunks = retriever.embed([retriever.database.text(row) for row in rows.tolist()])
    best = retriever.search(TEXTS[0], 1)[0]
    assert best.score == pytest.approx(float((chunks @ vectors[0]).max()), abs=1e-3)


def test_what_cannot_be_searched_is_a_config_error(tuned: Run, retriever: Retriever) -> None:
    with pytest.raises(ConfigError, match=r"^k = 0: needs at least 1"):
        retriever.search("river1", 0)


def test_a_run_that_searches_by_words_has_no_vectors(tuned: Run) -> None:
    pytest.importorskip("bm25s")
    search = SearchConfig(**BY_WORDS["search"])
    run = Run(tuned.config.model_copy(update={"run_dir": tuned.directory.parent / "words", "search": search}))
    for name in ("corpus", "db", "index"):
        run.stage(name)
    assert run.retriever().search("engine3 engine4", 1)[0].title == "engine"
    with pytest.raises(ConfigError, match=r"^search\.source = 'bm25': needs to search by vectors, to embed texts"):
        run.retriever().embed("engine3")
