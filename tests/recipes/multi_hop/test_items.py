"""Items in both layouts: what is read, what is written, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from retro.qa.formats.item import BadItemError
from retro.recipes.multi_hop.items import (
    SubQuestion,
    final_answer,
    final_answer_parts,
    item_of,
    long_answer,
    long_answer_parts,
    record_of,
)
from tests.recipes.multi_hop.samples import NEW, OLD


def test_a_new_item_is_read_field_by_field() -> None:
    item = item_of(NEW)
    assert (item.question, item.multihop, item.answer) == (NEW["question"], True, "The Bern Tower")
    assert item.sub_questions[1] == SubQuestion(
        question="When was the Bern Tower built?",
        paragraph="The Bern Tower dates from 1220.",
        long_answer="The text gives 1220.\nAnswer:1220",
    )
    assert (item.meta, item.extra) == ({"category": "buildings"}, {"tag": "gen"})


def test_an_old_item_with_one_sub_question_is_not_multi_hop() -> None:
    item = item_of(OLD)
    assert (item.multihop, item.src, item.final_answer) == (False, "squad.json", "Ada wrote it.")
    assert item.sub_questions[0].answer == "Ada"
    assert item_of(OLD | {"sub_questions": OLD["sub_questions"] * 2}).multihop


def test_the_misspelt_final_answer_is_read_and_written_right() -> None:
    misspelt = {("inal_answer" if name == "final_answer" else name): value for name, value in OLD.items()}
    assert item_of(misspelt) == item_of(OLD)
    assert record_of(item_of(misspelt), "old") == OLD


@pytest.mark.parametrize("record", [NEW, OLD])
def test_through_the_other_layout_and_back_nothing_is_lost(record: dict[str, Any]) -> None:
    item = item_of(record)
    for layout, other in (("new", "old"), ("old", "new")):
        once = record_of(item, layout)  # type: ignore[arg-type]
        assert item_of(once) == item
        twice = record_of(item_of(once), other)  # type: ignore[arg-type]
        assert item_of(twice) == item
    assert record_of(item_of(NEW), "new") == NEW
    assert record_of(item_of(OLD), "old") == OLD


def test_fields_that_are_not_known_are_kept() -> None:
    sub_question = NEW["sub_questions"][0] | {"source": "page 3"}
    record = NEW | {"sub_questions": [sub_question, NEW["sub_questions"][1]], "level": 3, "answer": 4, "id": 7}
    item = item_of(record)
    assert (item.answer, item.id) == ("", "7")
    assert item.sub_questions[0].extra == {"source": "page 3"}
    assert item.extra == {"level": 3, "answer": 4, "id": 7, "tag": "gen"}
    assert record_of(item) == record
    assert record_of(item, "old")["sub_questions"][0]["source"] == "page 3"


@pytest.mark.parametrize("answer", [0, False, [], 0.5, ["a", "b"]])
def test_an_answer_that_is_no_text_comes_back_in_either_layout(answer: Any) -> None:
    sub_questions = [NEW["sub_questions"][0] | {"answer": answer}, NEW["sub_questions"][1]]
    record = NEW | {"answer": answer, "sub_questions": sub_questions}
    item = item_of(record)
    assert (item.answer, item.sub_questions[0].answer) == ("", "")
    assert record_of(item) == record_of(item_of(record_of(item, "old"))) == record


def test_a_meta_info_that_is_no_object_is_carried_along() -> None:
    assert record_of(item_of(NEW | {"meta_info": "from a book"})) == NEW | {"meta_info": "from a book"}


def test_meta_is_another_name_of_meta_info() -> None:
    record = {name: value for name, value in NEW.items() if name != "meta_info"} | {"meta": {"category": "buildings"}}
    assert item_of(record) == item_of(NEW)


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        ({"question": " "}, "no_question", "has a blank 'question'"),
        ({"question": 3}, "wrong_type", "has a int in 'question'"),
        ({"multihop": "yes"}, "wrong_type", "has 'yes' in 'multihop'"),
        ({"multihop": False}, "number_of_sub_questions", "has 2 sub-questions, needs exactly one"),
        ({"sub_questions": NEW["sub_questions"][:1]}, "number_of_sub_questions", "has 1 sub-questions, needs two"),
        ({"sub_questions": []}, "no_sub_questions", "has no 'sub_questions'"),
        ({"sub_questions": "none"}, "wrong_type", "has a str in 'sub_questions'"),
        ({"sub_questions": [NEW["sub_questions"][0], "x"]}, "wrong_type", "has a str in sub_questions[1]"),
        ({"sub_questions": [{"question": "a", "unanswerable": 1}]}, "wrong_type", "has 1 in 'unanswerable' of sub_qu"),
        ({"sub_questions": [{"paragraph": "a"}]}, "no_question", "has no 'question' of sub_questions[0]"),
        ({"sub_questions": [{"question": "a"}] * 2}, "no_long_answer", "has no 'long_answer' in sub_questions[0]"),
        ({"final_answer": ""}, "no_final_answer", "has a blank 'final_answer'"),
        ({"inal_answer": "x"}, "two_final_answers", "has both 'final_answer' and 'inal_answer'"),
        ({"meta": {}}, "two_metas", "has both 'meta_info' and 'meta'"),
        ({"id": [1]}, "wrong_type", "has a list in 'id'"),
        ({"src": 4}, "wrong_type", "has a int in 'src'"),
    ],
)
def test_what_cannot_be_an_item_is_refused(change: dict[str, Any], reason: str, words: str) -> None:
    with pytest.raises(BadItemError) as caught:
        item_of(NEW | change)
    assert caught.value.reason == reason
    assert words in caught.value.problem


def test_answers_are_composed_and_taken_apart() -> None:
    assert long_answer(" It says 1856. ", "1856") == "It says 1856.\nAnswer:1856"
    assert long_answer_parts("It says 1856.\nIn line 2.\nAnswer: 1856") == ("It says 1856.\nIn line 2.", "1856")
    assert final_answer("1856 and 1220.", "B") == "Summary:1856 and 1220.\nAnswer:B"
    assert final_answer_parts("Summary: 1856 and 1220.\nAnswer: B") == ("1856 and 1220.", "B")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("It says 1856.", "no_answer_line"),
        ("a\nAnswer:b\nAnswer:c", "no_answer_line"),
        ("\nAnswer:b", "empty_reasoning"),
        ("a\nAnswer: ", "empty_answer"),
        ("Answer:a\nAnswer:b", "marker_in_text"),
    ],
)
def test_a_long_answer_in_another_form_is_refused(text: str, reason: str) -> None:
    with pytest.raises(BadItemError) as caught:
        long_answer_parts(text)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [("a\nAnswer:b", "no_summary"), ("Summary:\nAnswer:b", "empty_summary"), ("Summary:a", "no_answer_line")],
)
def test_a_final_answer_in_another_form_is_refused(text: str, reason: str) -> None:
    with pytest.raises(BadItemError) as caught:
        final_answer_parts(text)
    assert caught.value.reason == reason


def test_parts_that_could_not_be_taken_apart_again_are_not_composed() -> None:
    with pytest.raises(BadItemError, match="marker_in_text"):
        long_answer("One.\nAnswer:two", "three")
    with pytest.raises(BadItemError, match="marker_in_text"):
        final_answer("One.\nSummary:two", "three")
