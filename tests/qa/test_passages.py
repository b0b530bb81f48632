from __future__ import annotations

import numpy as np
import pytest

from retro.common.errors import ConfigError
from retro.qa.passages import neighbor_text, neighbor_tokens, passages_of
from retro.qa.question import Context, PassageLike, Question
from tests.sft.words import WordTokenizer

ASKED = [Question(id=str(n), question=f"q{n}", answers=("a",), contexts=(Context("", f"own {n}"),)) for n in range(300)]


def test_a_passage_is_its_first_tokens_and_a_missing_one_is_masked() -> None:
    found = neighbor_tokens(
        [(Context("", "a b c d e"), Context("", "a b")), (), (Context("", "c"),) * 3],
        WordTokenizer(),
        passages_per_question=2,
        retrieved_length=4,
        form="text",
    )
    assert found.tokens_NKR.tolist() == [
        [[1, 2, 3, 4], [1, 2, 0, 0]],
        [[0, 0, 0, 0], [0, 0, 0, 0]],
        [[3, 0, 0, 0], [3, 0, 0, 0]],
    ]
    assert found.lengths_NK.tolist() == [[4, 2], [0, 0], [1, 1]]
    assert found.mask(np.array([1, 0])).sum(axis=2).tolist() == [[0, 0], [4, 2]]


def test_a_title_goes_before_the_text_unless_the_text_begins_with_it() -> None:
    assert neighbor_text(Context("os.path", "Joins names."), "title_and_text") == "os.path\nJoins names."
    assert neighbor_text(Context("os.path", "os.path joins names."), "title_and_text") == "os.path joins names."
    assert neighbor_text(Context("", "Joins names."), "title_and_text") == "Joins names."
    assert neighbor_text(Context("os.path", "Joins names."), "text") == "Joins names."


def test_passages_come_with_the_questions_or_from_the_retriever() -> None:
    calls: list[int] = []

    def retrieve(texts: list[str]) -> list[list[PassageLike]]:
        calls.append(len(texts))
        return [[Context("", f"found for {text}")] for text in texts]

    assert passages_of(ASKED, "contexts", retrieve, what="t")[7] == (Context("", "own 7"),)
    assert calls == []
    found = passages_of(ASKED, "retriever", retrieve, what="t")
    assert found[299] == (Context("", "found for q299"),)
    assert calls == [256, 44]


def test_a_retriever_that_is_not_there_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="passages_from = 'retriever': needs a database and an index"):
        passages_of(ASKED, "retriever", None, what="t")


def test_a_retriever_that_drops_questions_is_caught() -> None:
    with pytest.raises(ValueError, match="answered 0 of 256 texts"):
        passages_of(ASKED, "retriever", lambda texts: [], what="t")
