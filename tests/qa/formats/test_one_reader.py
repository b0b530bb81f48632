"""A public file read as `retro sft convert` reads it and as an evaluation does: the same questions and gold answers."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from retro.qa.formats.convert import convert_file
from retro.qa.formats.item import Options
from retro.qa.formats.registry import find_format
from retro.qa.layouts import golds_of_item, read_task_questions
from retro.qa.question import Question
from retro.qa.task import load_task
from tests.qa.formats import samples

PEOPLE = copy.deepcopy(samples.TRIVIAQA)
PEOPLE["Data"][0]["Answer"] |= {"HumanAnswers": ["Lady Lovelace", "Ada"]}  # type: ignore[index]
SAME: list[tuple[str, str, Any]] = [
    ("squad", "squad2.0", samples.SQUAD),
    ("squad", "squad2.0", samples.SQUAD_ROWS),
    ("triviaqa", "tqa", samples.TRIVIAQA),
    ("triviaqa", "tqa", PEOPLE),
    ("boolq", "boolq", samples.BOOLQ),
    ("nq_open", "nq", samples.NQ_OPEN),
    ("hotpotqa", "hotpotqa", samples.HOTPOTQA),
]


def facts(question: Question) -> tuple[Any, ...]:
    """What is asked, what is right, and what is read.

    An evaluation keeps an answer as often as people gave it, and a paragraph that has no text.
    """
    golds = () if question.unanswerable else tuple(dict.fromkeys(question.answers))
    passages = [(context.title, context.text) for context in question.contexts if context.text]
    return question.id, question.question, golds, question.unanswerable, passages


@pytest.mark.parametrize(("form", "task", "sample"), SAME)
def test_what_is_learned_is_what_is_scored(form: str, task: str, sample: Any, tmp_path: Path) -> None:
    path = tmp_path / "in.json"
    path.write_text(json.dumps(sample), encoding="utf-8")
    learned = convert_file(path, find_format(form), Options(), skip_bad=False).questions
    scored = read_task_questions(path, load_task(task))
    assert [facts(one) for one in learned] == [facts(one) for one in scored]
    assert len(learned) == len(scored) > 0


def test_answers_that_people_gave_to_trivia_questions_are_learned_too(tmp_path: Path) -> None:
    path = tmp_path / "in.json"
    path.write_text(json.dumps(PEOPLE), encoding="utf-8")
    (question,) = convert_file(path, find_format("triviaqa"), Options(), skip_bad=False).questions
    assert question.answers == ("Ada", "Ada Lovelace", "Countess of Lovelace", "Lady Lovelace")


def test_answers_that_a_layout_passes_over_are_kept(tmp_path: Path) -> None:
    item = {"id": "a", "question": "Who?", "context": "c", "answers": [{"text": "Ada"}, "Bob"]}
    assert golds_of_item(load_task("squad2.0"), item) == ["Ada"]
    assert golds_of_item(load_task("squad2.0"), {"question": "Who?"}) is None
    path = tmp_path / "in.json"
    path.write_text(json.dumps([item]), encoding="utf-8")
    (question,) = convert_file(path, find_format("squad"), Options(), skip_bad=False).questions
    assert question.answers == ("Ada", "Bob")


def test_the_passages_that_are_converted_are_those_that_recall_looks_for(tmp_path: Path) -> None:
    path = tmp_path / "in.json"
    path.write_text(json.dumps(samples.SQUAD), encoding="utf-8")
    made = convert_file(path, find_format("squad"), Options(), skip_bad=False)
    corpus = {line["id"] for line in made.documents.lines()}
    assert corpus == {"New York"}
    assert {name for one in read_task_questions(path, load_task("squad2.0")) for name in one.document_ids} == corpus
