from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from retro.cli.scores import show_comparison
from retro.common import checksummed_json
from retro.common.errors import ArtifactError, ConfigError
from retro.common.files import read_json, write_json
from retro.common.statistics import Counts, count_right, mcnemar, p_value, sign_flips
from retro.common.terminal import Terminal
from retro.evaluate.compare import compare, open_scored_answers
from retro.evaluate.config import EvaluateConfig
from retro.evaluate.score import run
from retro.qa.answer_files import Answer, question_lines
from retro.qa.question import Question
from tests.evaluate.test_score import GOLD, write_generate


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"),
    [
        (0, 0, 1.0),
        (3, 3, 1.0),
        (1, 0, 1.0),
        # Five heads of five: 1/32 on either side.
        (5, 0, 2 / 32),
        (0, 5, 2 / 32),
        # At most one of six heads: 1 + 6 of 64 on either side.
        (1, 5, 14 / 64),
        (2000, 2100, 0.1220),
    ],
)
def test_mcnemar_worked_by_hand(only_a: int, only_b: int, p: float) -> None:
    assert mcnemar(only_a, only_b) == pytest.approx(p, abs=5e-4)


def test_counts_of_right_answers() -> None:
    assert count_right([1, 1, 0, 0, 0.5], [1, 0, 1, 0, 0.49]) == Counts(both=1, only_a=2, only_b=1, neither=1)


def test_flipped_signs_come_near_the_share_counted_over_all_signs() -> None:
    # Of the 16 choices of signs, |sum| is at least 1.0 for ++++ ++-+ and their like: count them.
    differences = [0.5, 0.25, 0.25, 0.125]
    sums = [sum(d * (1 if mask >> n & 1 else -1) for n, d in enumerate(differences)) for mask in range(16)]
    exact = sum(abs(one) >= sum(differences) for one in sums) / 16
    assert sign_flips(differences, seed=1) == pytest.approx(exact, abs=0.01)
    assert sign_flips([0.0, 0.0], seed=1) == 1.0
    assert sign_flips([0.3] * 60, seed=1) == pytest.approx(1 / 10_001)


def test_the_test_is_chosen_by_the_values() -> None:
    assert p_value([1, 1, 1, 1, 1], [0, 0, 0, 0, 0], seed=1) == ("mcnemar", 2 / 32)
    assert p_value([1, 0.5], [0, 0.5], seed=1)[0] == "sign_flips"


def scored(directory: Path, said: list[str], *, setting: str = "with_passages", folder: str = "8_evaluate") -> Path:
    mine = [
        Answer(id=f"q{n}", question=f"Who {n}?", answers=(GOLD[n],), prediction=word, passages=(), setting=setting)
        for n, word in enumerate(said)
    ]
    write_generate(directory / "7_generate", {setting: mine})
    config = EvaluateConfig(bootstrap_samples=50)
    run(config, directory / "7_generate", directory / folder, report=None, run_dir=directory)
    return directory


def test_two_runs_worked_by_hand(tmp_path: Path) -> None:
    a = scored(tmp_path / "a", ["ada", "babbage", "x", "y"])
    b = scored(tmp_path / "b", ["ada", "x", "alan turing", "y"])
    found = compare(open_scored_answers(a), open_scored_answers(b))
    em, f1 = found["metrics"]["exact_match"], found["metrics"]["f1"]
    assert (em["a"], em["b"], em["difference"]["mean"], em["test"], em["p"]) == (0.5, 0.25, 0.25, "mcnemar", 1.0)
    assert em["right"] == {"both": 1, "only_a": 1, "only_b": 0, "neither": 2}
    assert f1["right"] == {"both": 1, "only_a": 1, "only_b": 1, "neither": 1}
    assert f1["test"] == "sign_flips"
    assert f1["b"] == pytest.approx((1 + 2 / 3) / 4, abs=1e-5)
    (one,) = found["differ"]
    assert (one["id"], one["right"], one["a"], one["b"], one["answers"]) == ("q1", "a", "babbage", "x", ["babbage"])


def test_the_terminal_shows_counts_and_questions(tmp_path: Path) -> None:
    a = scored(tmp_path / "a", ["ada", "[red]babbage", "x", "y"])
    b = scored(tmp_path / "b", ["x", "x", "turing", "y"])
    stream = io.StringIO()
    show_comparison(compare(open_scored_answers(a), open_scored_answers(b)), Terminal(stream, width=140), questions=1)
    text = stream.getvalue()
    assert "One alone is right: 2, 1 shown" in text
    assert "McNemar's exact test" in text
    assert "Who 0?" in text
    assert "Who 2?" not in text


def test_settings_of_one_run_can_be_compared(tmp_path: Path) -> None:
    a = scored(tmp_path / "a", ["ada", "x", "x", "y"], setting="closed_book")
    with pytest.raises(ConfigError, match="needs another run, or another setting"):
        compare(open_scored_answers(a), open_scored_answers(a))
    with pytest.raises(ConfigError, match=r"--setting = 'open': needs one of those that .* has: closed_book"):
        open_scored_answers(a, setting="open")


def test_runs_over_other_questions_are_refused(tmp_path: Path) -> None:
    a = open_scored_answers(scored(tmp_path / "a", ["ada", "x", "x", "y"]))
    b = scored(tmp_path / "b", ["ada", "x", "x", "y"])
    path = b / "8_evaluate" / "questions.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:3]))
    with pytest.raises(ArtifactError, match=r"holds 3 questions, .* holds 4"):
        compare(a, open_scored_answers(b))
    path.write_text("".join([lines[0], lines[2], *lines[1:]]))
    with pytest.raises(ArtifactError, match=r"question 2 has id 'q2', .* has 'q1'"):
        compare(a, open_scored_answers(b))
    first, _ = checksummed_json.parse_line(lines[0])
    path.write_text(checksummed_json.line(first | {"answers": ["bob"]}))
    with pytest.raises(ArtifactError, match=r"question 1 has answers \['bob'\]"):
        compare(a, open_scored_answers(b))
    path.write_text("{\n")
    with pytest.raises(ArtifactError, match="line 1 is broken JSON"):
        open_scored_answers(b)


def test_runs_scored_otherwise_are_refused(tmp_path: Path) -> None:
    a, b = (open_scored_answers(scored(tmp_path / name, ["ada", "x", "x", "y"])) for name in "ab")
    other: dict[str, Any] = {**b.scores, "task": {"name": "qa", "version": 9}}
    write_json(b.directory / "scores.json", other)
    with pytest.raises(ConfigError, match="needs both scored alike"):
        compare(a, open_scored_answers(b.directory))


def test_of_several_scored_answers_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="holds no scored answers"):
        open_scored_answers(tmp_path)
    run_dir = scored(tmp_path / "a", ["ada", "x", "x", "y"], folder="8_evaluate_one")
    assert open_scored_answers(run_dir).directory.name == "8_evaluate_one"
    scored(tmp_path / "a", ["ada", "x", "x", "y"], folder="8_evaluate_two")
    with pytest.raises(ConfigError, match=r"8_evaluate_one, 8_evaluate_two.*holds several scored answers"):
        open_scored_answers(run_dir)
    with pytest.raises(ArtifactError, match="holds no answers scored as task 'nq'"):
        open_scored_answers(run_dir, task="nq")
    scores = read_json(run_dir / "8_evaluate_two" / "scores.json", "")
    write_json(run_dir / "8_evaluate_two" / "scores.json", scores | {"task": {"name": "nq", "version": 2}})
    assert open_scored_answers(run_dir, task="nq").directory.name == "8_evaluate_two"
    scored(tmp_path / "a", ["ada", "x", "x", "y"])
    assert open_scored_answers(run_dir).directory.name == "8_evaluate"


def test_question_lines_keep_everything_that_scores_need() -> None:
    one = Question(
        id="1", question="?", answers=("a",), answer_groups=(("a", "b"),), options=("a",), labels=(("t", "x"),)
    )
    line = json.loads(question_lines([one]))
    assert (line["answer_groups"], line["options"], line["labels"]) == ([["a", "b"]], ["a"], {"t": "x"})
