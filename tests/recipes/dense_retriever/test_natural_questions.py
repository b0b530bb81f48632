"""Examples of Natural Questions in the layouts of the release: the annotated span alone is the positive."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from retro.qa.formats.item import BadItemError
from retro.recipes.dense_retriever.data.natural_questions import natural_questions
from retro.recipes.dense_retriever.data.pair_items import NoPositiveError

TEXT = '<H1> Rome </H1> <P> Rome is the capital of Italy . </P> <Table> <Td_colspan="2"> a <b </Td> </Table>'
TOKENS = TEXT.split(" ")
LONG = {"start_token": 3, "end_token": 12, "candidate_index": 1}
NONE = {"start_token": -1, "end_token": -1, "candidate_index": -1}
URL = "https://en.wikipedia.org//w/index.php?title=Rome_%28city%29&amp;oldid=12"


def simplified(*long_answers: Any, **changes: Any) -> dict[str, Any]:
    """An example as the simplified release has it; the first candidate is not the long answer."""
    annotations = [
        {"long_answer": one, "short_answers": [{"start_token": 9, "end_token": 10}], "yes_no_answer": "NONE"}
        for one in long_answers
    ]
    candidates = [{"start_token": 0, "end_token": 3, "top_level": True}, {"start_token": 3, "end_token": 12}]
    return {
        "example_id": 7, "question_text": "what is rome the capital of", "document_url": URL,
        "document_text": " ".join(TOKENS), "annotations": annotations, "long_answer_candidates": candidates,
    } | changes  # fmt: skip


def full(*long_answers: Any) -> dict[str, Any]:
    """The same as the full release has it: tokens as objects, blanks in tags, a title."""
    item = simplified(*long_answers)
    del item["document_text"]
    tokens = [{"token": one.replace("_", " "), "html_token": one.startswith("<") and one != "<b"} for one in TOKENS]
    return item | {"document_tokens": tokens, "document_title": "Rome (city)"}


def columns(*long_answers: Any) -> dict[str, Any]:
    """The same as HuggingFace's datasets have it."""
    tokens = {"token": TOKENS, "is_html": [one.startswith("<") and one != "<b" for one in TOKENS]}
    short = {"start_token": [9], "end_token": [10], "text": ["Italy"]}
    return {
        "id": "7", "question": {"text": "what is rome the capital of"},
        "document": {"title": "Rome (city)", "url": URL, "tokens": tokens},
        "annotations": {"id": ["1"] * len(long_answers), "long_answer": list(long_answers),
                        "short_answers": [short] * len(long_answers), "yes_no_answer": [-1] * len(long_answers)},
    }  # fmt: skip


@pytest.mark.parametrize("layout", [simplified, full, columns])
def test_the_annotated_span_without_html_is_the_positive(layout: Any) -> None:
    found = natural_questions(layout(LONG), "0")
    (positive,) = found.positives
    assert positive.text == "Rome is the capital of Italy ."
    assert positive.document == positive.title == "Rome (city)"
    assert (found.id, found.question, found.answers) == ("7", "what is rome the capital of", ("Italy",))
    assert found.kind == "P"


def test_candidates_are_not_looked_at() -> None:
    item = simplified(LONG)
    other = copy.deepcopy(item) | {"long_answer_candidates": [{"start_token": 0, "end_token": 1}]}
    del item["long_answer_candidates"]
    assert natural_questions(item, "0") == natural_questions(other, "0")


def test_tags_with_blanks_are_html_and_a_sign_is_text() -> None:
    found = natural_questions(simplified({"start_token": 12, "end_token": 17, "candidate_index": 2}), "0")
    assert found.positives[0].text == "a <b"
    assert found.kind == "Table"
    assert found.answers == ("Italy",)


@pytest.mark.parametrize(
    "nothing",
    [None, NONE, {"start_token": None, "end_token": None, "candidate_index": None}, LONG | {"candidate_index": -1}],
)
@pytest.mark.parametrize("layout", [simplified, full, columns])
def test_without_a_long_answer_there_is_no_pair(layout: Any, nothing: Any) -> None:
    with pytest.raises(NoPositiveError) as caught:
        natural_questions(layout(nothing), "0")
    assert caught.value.reason == "no_long_answer"


def test_of_five_annotators_two_must_have_marked_one_and_the_most_agree() -> None:
    other = {"start_token": 0, "end_token": 3, "candidate_index": 0}
    with pytest.raises(NoPositiveError, match="1 of 5") as caught:
        natural_questions(simplified(NONE, LONG, NONE, NONE, NONE), "0")
    assert caught.value.reason == "disputed_long_answer"
    assert natural_questions(simplified(other, LONG, LONG, NONE, NONE), "0").kind == "P"
    # Equally many: the first.
    assert natural_questions(simplified(other, LONG, NONE, NONE, NONE), "0").positives[0].text == "Rome"


def test_a_long_answer_of_html_alone_is_none() -> None:
    with pytest.raises(NoPositiveError) as caught:
        natural_questions(simplified({"start_token": 2, "end_token": 4, "candidate_index": 0}), "0")
    assert caught.value.reason == "empty_long_answer"


@pytest.mark.parametrize(
    ("url", "title"),
    [
        (URL, "Rome (city)"),
        (URL.replace("oldid=12", "oldid=99"), "Rome (city)"),
        ("https://en.wikipedia.org/wiki/Rome_%28city%29", "Rome (city)"),
        ("https://en.wikipedia.org/wiki/Caf%C3%A9", "Café"),
    ],
)
def test_an_article_is_one_document_in_every_revision(url: str, title: str) -> None:
    assert natural_questions(simplified(LONG, document_url=url), "0").positives[0].document == title


def test_a_document_without_a_name_is_known_by_its_text() -> None:
    one, same = (natural_questions(simplified(LONG, document_url=None, example_id=n), "0") for n in (1, 2))
    assert one.positives[0].document == same.positives[0].document
    assert one.positives[0].document.startswith("text:")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"question_text": " "}, "no_question"),
        ({"question_text": None}, "no_question"),
        ({"example_id": [3]}, "wrong_type"),
        ({"annotations": "none"}, "wrong_type"),
        ({"annotations": [3]}, "wrong_type"),
        ({"annotations": {"long_answer": 3}}, "wrong_type"),
        ({"annotations": [{"long_answer": 3}]}, "wrong_type"),
        ({"annotations": [{"long_answer": {"start_token": "a", "end_token": 4}}]}, "wrong_type"),
        ({"annotations": [{"long_answer": {"start_token": 3, "end_token": 99}}]}, "bad_span"),
        ({"annotations": [{"long_answer": {"start_token": 4, "end_token": 4}}]}, "bad_span"),
        ({"document_text": None}, "no_document"),
        ({"document_text": None, "document_tokens": [{"html_token": True}]}, "wrong_type"),
    ],
)
def test_what_is_no_example_says_why(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadItemError) as caught:
        natural_questions(simplified(LONG, **change), "0")
    assert caught.value.reason == reason
    assert not isinstance(caught.value, NoPositiveError)
