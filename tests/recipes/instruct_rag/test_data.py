"""Which documents are shown, and how often they hold an answer: worked by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from retro.common.errors import ConfigError, DataError
from retro.qa.question import Context, Question
from retro.recipes.instruct_rag.config import DocumentsConfig
from retro.recipes.instruct_rag.data import chosen_documents, ranked, recall_at, short_answers
from retro.recipes.instruct_rag.prompts import as_question

FILE = Path("train.json")


def asked(name: str, *texts: str, scores: tuple[float, ...] = ()) -> Question:
    given = scores or (0.0,) * len(texts)
    contexts = tuple(Context("", text, score=score) for text, score in zip(texts, given, strict=True))
    return Question(id=name, question=f"Where is {name}", answers=("Rome",), contexts=contexts)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("who is it", "who is it?"),
        (". who is it?", "who is it?"),
        ("Name the city.", "Name the city?"),
        (" x? ", "x?"),
        ("谁？", "谁？"),
    ],
)
def test_a_question_ends_with_a_question_mark(text: str, wanted: str) -> None:
    assert as_question(text) == wanted


def test_documents_are_ranked_by_scores_as_numbers() -> None:
    # As texts, "9.5" would come before "10.1".
    one = ranked(asked("a", "low", "high", "none", scores=(9.5, 10.1, 0.0)))
    assert [document.text for document in one.contexts] == ["high", "low", "none"]


def test_documents_without_scores_stay_as_they_are() -> None:
    assert [one.text for one in ranked(asked("a", "x", "y", "z")).contexts] == ["x", "y", "z"]


def test_recall_at_k_by_hand() -> None:
    questions = [
        asked("a", "In Rome.", "no"),
        asked("b", "no", "rome, Italy"),
        asked("c", "no", "no", "Rome"),
        # A word that contains the answer does not hold it.
        asked("d", "Romeo", "no"),
    ]
    assert recall_at(questions, 2) == {"1": 0.25, "2": 0.5}
    assert recall_at(questions, 3) == {"1": 0.25, "2": 0.5, "3": 0.75}


def test_fewer_documents_than_asked_for_are_counted() -> None:
    chosen, notes = chosen_documents([asked("a", "x"), asked("b", "x", "y", "z")], DocumentsConfig(), 2, FILE)
    assert [len(one.contexts) for one in chosen] == [1, 2]
    assert notes == {"with_fewer_documents": 1}


def test_noise_takes_the_worst_documents_and_never_holds_an_answer() -> None:
    questions = [asked("a", "a1", "a2", "a3"), asked("b", "b1 Rome", "b2"), asked("c", "c1", "Rome c2")]
    chosen, notes = chosen_documents(questions, DocumentsConfig(noise=2), 3, FILE)
    assert chosen[0].contexts[0].text == "a1"
    drawn = {one.text for one in chosen[0].contexts[1:]}
    assert len(drawn) == 2
    assert drawn <= {"b2", "c1"}
    assert notes["noise"] >= 2
    again, _ = chosen_documents(questions, DocumentsConfig(noise=2), 3, FILE)
    assert again == chosen


def test_noise_that_cannot_be_found_is_counted() -> None:
    chosen, notes = chosen_documents([asked("a", "a1", "a2"), asked("b", "Rome")], DocumentsConfig(noise=1), 2, FILE)
    assert [one.text for one in chosen[0].contexts] == ["a1", "a2"]
    assert notes["without_noise"] == 1


@pytest.mark.parametrize(
    ("order", "place", "ranks"),
    [
        ("best_first", 1, ["Rome", "x", "y"]),
        ("best_first", 3, ["x", "y", "Rome"]),
        # Shown from the worst to the best: the first place is the last rank.
        ("best_last", 1, ["x", "y", "Rome"]),
        ("best_last", 3, ["Rome", "x", "y"]),
        # Shown 0, 2, 1: the middle is the last rank.
        ("best_at_ends", 2, ["x", "y", "Rome"]),
    ],
)
def test_the_answer_is_moved_to_a_place_in_the_prompt(order: str, place: int, ranks: list[str]) -> None:
    config = DocumentsConfig.model_validate({"order": order, "answer_place": place})
    (one,), notes = chosen_documents([asked("a", "x", "Rome", "y")], config, 3, FILE)
    assert [document.text for document in one.contexts] == ranks
    assert notes == {}


def test_a_question_without_the_answer_in_documents_is_counted() -> None:
    _, notes = chosen_documents([asked("a", "x", "y")], DocumentsConfig(answer_place=1), 2, FILE)
    assert notes == {"answer_not_placed": 1}


def test_questions_without_documents_are_refused() -> None:
    with pytest.raises(DataError, match=r"train.json: none of its questions has passages"):
        chosen_documents([asked("a")], DocumentsConfig(), 2, FILE)


@pytest.mark.parametrize("name", ["noise", "answer_place"])
def test_more_than_the_documents_is_refused(name: str) -> None:
    config = DocumentsConfig.model_validate({name: 3})
    with pytest.raises(ConfigError, match=rf"documents.{name} = 3: needs at most 2"):
        chosen_documents([asked("a", "x", "y")], config, 2, FILE)


def test_of_a_question_with_several_meanings_the_short_answers_are_looked_for() -> None:
    # ASQA's answers are long texts, which no document holds.
    long = replace(
        asked("a", "It was one.", "no"), answers=("It was one, and then two.",), answer_groups=(("one",), ("two",))
    )
    assert short_answers(long) == ("one", "two")
    assert recall_at([long], 2) == {"1": 1.0, "2": 1.0}


def test_the_section_of_a_wrong_setting_is_named() -> None:
    with pytest.raises(ConfigError, match=r"recipe.instruct_rag.test_documents.noise = 3: needs at most 2"):
        chosen_documents([asked("a", "x", "y")], DocumentsConfig(noise=3), 2, FILE, "test_documents")
