"""Files of the original tools, under the names that those give them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from retro.common.errors import ConfigError, DataError
from retro.evaluate.config import EvaluateConfig
from retro.evaluate.predictions import run_plain

NAME = "retro-generate-nq_5_2_843m_test_greedy_2_3_195312"
ITEMS = [
    {"question": "Who 0?", "answers": ["Ada"]},
    {"question": "Who 1?", "answer": "Babbage"},
    {"question": "Who 2?", "answers": ["Turing", "Alan Turing"]},
    {"question": "Who 3?", "answers": [{"text": "Hopper"}, {"text": "Grace"}]},
    {"question": "Who 4?", "answer": ["Lovelace"]},
]
SAID = "Alan Turing<|endoftext|>\nA: Grace\nAnswer: the Lovelace.\n".replace("<|endoftext|>", "")


def score(tmp_path: Path, text: str = SAID, name: str = NAME, **more: Any) -> dict[str, Any]:
    questions, predictions = tmp_path / "nq_QA_test.json", tmp_path / f"{name}.txt"
    questions.write_text(json.dumps(ITEMS))
    predictions.write_text(text)
    settings = {key: more.pop(key) for key in ("task", "gold") if key in more}
    config = EvaluateConfig(bootstrap_samples=20, **settings)
    return run_plain(config, predictions, questions, tmp_path / "scores", **more)


def test_a_slice_answers_the_questions_from_its_start_on(tmp_path: Path) -> None:
    scores = score(tmp_path, start=2)
    mine = scores["settings"][NAME]
    assert (scores["questions"], mine["exact_match"]["mean"], mine["f1"]["mean"]) == (3, 1.0, 1.0)
    assert scores["task"] == {"name": "qa", "version": 1}


def test_the_first_gold_answer_alone_as_the_original_f1(tmp_path: Path) -> None:
    # "alan turing" against "Turing": precision 1/2, recall 1; "grace" against "Hopper": nothing; and one right.
    mine = score(tmp_path, start=2, gold="first")["settings"][NAME]
    assert mine["f1"]["mean"] == pytest.approx((2 / 3 + 0 + 1) / 3, abs=1e-5)
    assert mine["exact_match"]["mean"] == pytest.approx(1 / 3, abs=1e-5)


def test_a_text_as_gold_answer_is_not_its_letters(tmp_path: Path) -> None:
    scores = score(tmp_path, "a\nb\n", limit=2)
    assert scores["settings"][NAME]["exact_match"]["mean"] == 0.0


def test_both_files_are_cut_at_the_limit(tmp_path: Path) -> None:
    dev = "retro-generate-nq_5_2_843m_dev_greedy_0_3000_195312"
    scores = score(tmp_path, "Ada\nBabbage\nx\ny\nz\n", dev, limit=2)
    assert (scores["questions"], scores["settings"][dev]["exact_match"]["mean"]) == (2, 1.0)


def test_another_task_may_score_it(tmp_path: Path) -> None:
    scores = score(tmp_path, start=2, task="popqa")
    assert scores["metrics"] == ["popqa_match", "substring_match", "exact_match", "f1"]
    # "the Lovelace." holds it, "Grace" is it.
    assert scores["settings"][NAME]["popqa_match"]["mean"] == 1.0


def test_lines_without_a_gold_answer_are_counted_and_named(tmp_path: Path) -> None:
    items: list[dict[str, Any]] = [{"question": f"Who {n}?", "answers": ["Ada"] if n % 3 else []} for n in range(40)]
    items[4] = {"question": "Who 4?", "is_impossible": True}
    questions, predictions = tmp_path / "q.json", tmp_path / "said.txt"
    questions.write_text(json.dumps(items))
    predictions.write_text("Ada\n" * 40)
    out = tmp_path / "scores"
    words = r"15 of 40 questions have no gold answer: those of lines 1, 4, 5, 7, 10, 13, 16, 19, 22, 25, …\. Take these"
    with pytest.raises(DataError, match=words):
        run_plain(EvaluateConfig(), predictions, questions, out)
    predictions.write_text("Ada\n" * 3)
    with pytest.raises(DataError, match=r"1 of 3 questions .* lines 2; line 1 answers question 5, counted from 0"):
        run_plain(EvaluateConfig(), predictions, questions, out, start=5, limit=3)
    # Questions that are not to be scored may lack one.
    predictions.write_text("Ada\nBob\n")
    scores = run_plain(EvaluateConfig(bootstrap_samples=20), predictions, questions, out, start=7, limit=2)
    assert (scores["questions"], scores["settings"]["said"]["exact_match"]["mean"]) == (2, 0.5)


def test_a_task_of_unanswerable_questions_scores_them_all(tmp_path: Path) -> None:
    unanswerable: dict[str, Any] = {"question": "Why?", "is_impossible": True}
    items = [{"question": "Who?", "answers": ["Ada"]}, unanswerable]
    questions, predictions = tmp_path / "q.json", tmp_path / "said.txt"
    questions.write_text(json.dumps(items))
    predictions.write_text("Ada\nunanswerable\n")
    config = EvaluateConfig(bootstrap_samples=20, task="squad2.0")
    scores = run_plain(config, predictions, questions, tmp_path / "scores")
    assert scores["settings"]["said"]["f1"]["mean"] == 1.0


def test_a_name_of_the_original_tools_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"3 lines for 5 questions.*it answers nq: try --start 2 --limit 3"):
        score(tmp_path)
    with pytest.raises(DataError, match=r"3 lines for 5 questions.*question file$"):
        score(tmp_path, name="mine")


@pytest.mark.parametrize("start", [-1, 5])
def test_a_start_behind_the_last_question_is_an_error(tmp_path: Path, start: int) -> None:
    with pytest.raises(ConfigError, match=rf"--start = {start}: needs a number from 0 to 4"):
        score(tmp_path, start=start)
