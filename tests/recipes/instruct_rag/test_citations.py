"""Which documents a sentence leans on: worked by hand."""

from __future__ import annotations

import pytest

from retro.qa.answer_files import Answer
from retro.qa.question import Context, Question
from retro.recipes.instruct_rag.citations import alce_file, as_shown, claims, named_documents, with_citations

SHOWN = [
    Context("Rome", "Rome is the capital of Italy since 1871."),
    Context("Milan", "Milan is a city of fashion."),
    Context("", "Turin was the first capital."),
]


@pytest.mark.parametrize(
    ("sentence", "numbers"),
    [
        ("Document 2 shows it.", [2]),
        ("Documents 1, 3 and 4 help, document 3 most.", [1, 3, 4]),
        ("As Document 1 and Document 2 say.", [1, 2]),
        ("The document of 1871 says so.", []),
        ("DOCUMENT #3.", [3]),
        ("Documents 1-3 and 5 agree.", [1, 2, 3, 5]),
        ("Doc. 2 and (document (4)) agree.", [2, 4]),
        ("In 2 documents.", []),
    ],
)
def test_documents_that_a_sentence_names(sentence: str, numbers: list[int]) -> None:
    assert named_documents(sentence) == numbers


def test_a_claim_leans_on_what_it_names_or_on_what_shares_its_words() -> None:
    found = claims("Document 1 helps. Milan is a fashion city. Nobody knows why. See Document 9.", SHOWN)
    assert [one.named for one in found] == [(1,), (), (), ()]
    assert [one.nearest for one in found] == [None, 2, None, None]
    assert [one.cited for one in found] == [(1,), (), (), ()]


@pytest.mark.parametrize(
    "sentence",
    ["Document 2 does not help.", "None of documents 1-3 says so.", "Document 1 is irrelevant.", "Document 2 doesn't."],
)
def test_a_document_that_is_said_not_to_help_is_no_support(sentence: str) -> None:
    (claim,) = claims(sentence, SHOWN)
    assert claim.named
    assert claim.cited == ()
    assert with_citations(sentence, SHOWN) == sentence


def test_documents_have_the_numbers_of_the_prompt() -> None:
    assert [one.title for one in as_shown(SHOWN, "best_last")] == ["", "Milan", "Rome"]


def test_named_documents_become_citations_before_the_full_stop() -> None:
    text = "Documents 1 and 3 agree on the capital.\nDocument 2 (on Milan) does not help. It is Rome"
    wanted = "Documents 1 and 3 agree on the capital [1][3]. Document 2 (on Milan) does not help. It is Rome"
    assert with_citations(text, SHOWN) == wanted


def test_alce_s_file_has_the_documents_in_the_order_of_their_numbers() -> None:
    question = Question(
        id="0", question="Where?", answers=("Rome",), contexts=tuple(SHOWN[:2]), answer_groups=(("Rome", "Roma"),)
    )
    answer = Answer(
        id="0", question="Where?", answers=("Rome",), prediction="Document 2 says Rome.", passages=(),
        setting="with_passages", skipped="", ended="stop",
    )  # fmt: skip
    (item,) = alce_file([answer], [question], "best_last")["data"]
    assert item["output"] == "Document 2 says Rome [2]."
    assert [one["title"] for one in item["docs"]] == ["Milan", "Rome"]
    assert item["qa_pairs"] == [{"question": "Where?", "short_answers": ["Rome", "Roma"]}]
