"""Questions are parted, and what suits their answers is chosen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from retro.common.errors import DataError
from retro.init.questions import PARTS, UserQuestions, question_choices, read_user_questions
from retro.init.training_choices import SHAPES, Training
from tests.init.texts import write_asked

TRAINED = Training(shaped=SHAPES[0], steps=100, tuning_steps=25, choices=())
FILES = {part: Path(f"q/{part}.json") for part in PARTS}


def settings(asked: UserQuestions) -> dict[str, Any]:
    choices = question_choices(asked, FILES, TRAINED, lambda text: len(text.split()))
    return {choice.setting: choice.value for choice in choices}


def test_a_tenth_each_is_held_out_and_no_question_is_in_two_parts(tmp_path: Path) -> None:
    asked = read_user_questions(write_asked(tmp_path / "q.json", count=40))
    assert [asked.count(part) for part in PARTS] == [32, 4, 4]
    assert len({one.id for part in PARTS for one in asked.parts[part]}) == 40
    assert asked.without_answer == 1
    assert read_user_questions(tmp_path / "q.json").parts == asked.parts


@pytest.mark.parametrize(
    ("count", "parts"), [(4, [1, 1, 2]), (9, [6, 1, 2]), (14, [11, 1, 2]), (15, [11, 2, 2]), (20, [16, 2, 2])]
)
def test_two_are_asked_at_least_so_that_one_can_have_the_others_passages(
    tmp_path: Path, count: int, parts: list[int]
) -> None:
    asked = read_user_questions(write_asked(tmp_path / "q.json", count=count))
    assert [asked.count(part) for part in PARTS] == parts


def test_short_answers_are_scored_as_such_and_long_ones_as_texts(tmp_path: Path) -> None:
    short = settings(read_user_questions(write_asked(tmp_path / "q.json")))
    assert (short["generate.task"], short["generate.max_new_tokens"]) == ("qa", 8)
    items = [{"question": "Why?", "answer": "word " * 30} for _ in range(10)]
    (tmp_path / "long.jsonl").write_text("\n".join(map(json.dumps, items)))
    long = settings(read_user_questions(tmp_path / "long.jsonl"))
    # 30 words and the end: the next multiple of 8.
    assert (long["generate.task"], long["generate.max_new_tokens"]) == ("longform", 32)
    assert long["sft.data.sets"][0]["kind"] == "full_answer"
    assert "generate.limit" not in short


def test_many_questions_are_asked_in_part(tmp_path: Path) -> None:
    assert settings(read_user_questions(write_asked(tmp_path / "q.json", count=1_500)))["generate.limit"] == 100


def test_questions_that_cannot_be_used_are_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.json: "):
        read_user_questions(tmp_path / "absent.json")
    with pytest.raises(
        DataError, match=r"holds 3 questions with an answer \(1 have none\); .* Give more questions, or"
    ):
        read_user_questions(write_asked(tmp_path / "three.json", count=3))
    (tmp_path / "other.json").write_text('[{"prompt": "Why?", "answer": "so"}]')
    with pytest.raises(DataError, match=r"other\.json: .* has no 'question'"):
        read_user_questions(tmp_path / "other.json")
