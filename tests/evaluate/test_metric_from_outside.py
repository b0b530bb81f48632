"""A metric of another package, in one file, named by a task in one YAML file: in scores, report and comparison."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from retro.cli.scores import show_comparison
from retro.common.errors import ConfigError, DataError
from retro.common.files import read_json
from retro.common.terminal import Terminal
from retro.evaluate.compare import compare, open_scored_answers
from retro.evaluate.config import EvaluateConfig
from retro.evaluate.score import run
from retro.qa.answer_files import Answer, QuestionLine
from retro.qa.metrics.registry import METRICS, Metric, metric, metric_facts
from retro.qa.metrics.scoring import score
from retro.qa.task import load_task
from tests.outside import installed, write_distribution
from tests.report.fake_run import write_answers

TASTE = '''
from retro.qa.metrics.registry import metric


@metric(label="Warmth", needs_gold=False, low=1, high=5)
def warmth(said, asked, rules):
    """A judge's marks would stand here: 5 for an answer with a dot in it, else 2."""
    return 5 if "." in said else 2


@metric(label="Words used", needs_gold=False, high=20, higher_is_better=False)
def words_used(said, asked, rules):
    return len(said.split())
'''
TASK = """
name: tasteful
version: 1
description: How warm, how brief, how right.
kind: short_span
metrics: [warmth, words_used, f1]
"""


@pytest.fixture
def task(tmp_path: Path) -> Iterator[Path]:
    entries = {"retro.metrics": "warmth = taste:warmth\nwords_used = taste:words_used"}
    write_distribution(tmp_path / "site", "taste", {"taste.py": TASTE}, entries)
    path = tmp_path / "tasteful.yaml"
    path.write_text(TASK, encoding="utf-8")
    with installed(tmp_path / "site", METRICS):
        yield path


def scored(run_dir: Path, task: Path) -> dict[str, Any]:
    write_answers(run_dir, 20)
    config = EvaluateConfig(task=str(task), bootstrap_samples=50)
    run(config, run_dir / "7_generate", run_dir / "8_evaluate", report=None, run_dir=run_dir)
    found: dict[str, Any] = read_json(run_dir / "8_evaluate" / "scores.json", "")
    return found


def test_it_appears_in_scores_report_and_comparison(task: Path, tmp_path: Path) -> None:
    scores = scored(tmp_path / "run", task)
    assert scores["metrics"] == ["warmth", "words_used", "f1"]
    assert scores["metric_facts"]["words_used"] == {
        "label": "Words used",
        "range": [0.0, 20],
        "higher_is_better": False,
        "aggregate": "mean",
        "computed_by": "taste 1.0",
    }
    lines = (tmp_path / "run" / "7_generate" / "closed_book.jsonl").read_text(encoding="utf-8").splitlines()
    import json

    said = [json.loads(line)["prediction"] for line in lines]
    assert len(said) == 20
    closed = scores["settings"]["closed_book"]
    # Shares of the range: 5 of 1 to 5 is all of it, 2 a quarter.
    assert closed["warmth"]["mean"] == pytest.approx(sum(1 if "." in one else 0.25 for one in said) / 20, abs=1e-6)
    assert closed["words_used"]["mean"] == pytest.approx(sum(len(one.split()) for one in said) / 20 / 20, abs=1e-6)
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Warmth" in page
    sides = [open_scored_answers(tmp_path / "run", setting=one) for one in ("with_passages", "closed_book")]
    found = compare(*sides)
    assert set(found["metrics"]) == {"warmth", "words_used", "f1"}
    # Of a metric of which less is better, few words are right: all of them have fewer than ten.
    assert found["metrics"]["words_used"]["right"] == {"both": 20, "only_a": 0, "only_b": 0, "neither": 0}
    stream = io.StringIO()
    show_comparison(found, Terminal(stream), questions=0)
    assert "Warmth" in stream.getvalue()
    assert "Words used" in stream.getvalue()


def test_scores_are_shown_where_the_package_is_no_longer_installed(task: Path, tmp_path: Path) -> None:
    from retro.report.format import metric_name

    assert metric_name("words_used") == "Words used"
    entries = METRICS._offers.pop("words_used")
    assert metric_name("words_used") == "words used"
    METRICS._offers["words_used"] = entries


def test_a_task_cannot_be_summed_up_by_what_should_be_low(task: Path, tmp_path: Path) -> None:
    task.write_text(TASK.replace("[warmth, words_used, f1]", "[words_used, f1]"), encoding="utf-8")
    with pytest.raises(
        ConfigError, match="metrics = 'words_used': needs a first metric of which more is better, since"
    ):
        scored(tmp_path / "run", task)


def test_a_task_that_names_an_unknown_metric_is_told_the_nearest(task: Path) -> None:
    task.write_text(TASK.replace("[warmth,", "[warmt,"), encoding="utf-8")
    with pytest.raises(DataError, match=r"tasteful\.yaml: metrics = 'warmt': is not a metric; did you mean 'warmth'"):
        load_task(task)


LINE = QuestionLine(id="q1", question="?", answers=(), document_ids=())
SAID = Answer(id="q1", question="?", answers=(), prediction="a b", passages=(), setting="s")


@pytest.fixture
def register() -> Iterator[Any]:
    names = []

    def add(name: str, made: Metric) -> None:
        METRICS.register(name)(made)
        names.append(name)

    yield add
    for name in names:
        METRICS.unregister(name)


def test_a_metric_is_registered_in_a_notebook(register: Any) -> None:
    @metric(label="Length", needs_gold=False, high=4)
    def length(said: str, asked: Any, rules: Any) -> float:
        return len(said.split())

    register("length", length)
    task = load_task("qa").model_copy(update={"metrics": ("length",)})
    assert score(task, [LINE], [SAID]) == {"length": [0.5]}
    assert metric_facts("length")["computed_by"] == __name__


@pytest.mark.parametrize("value", [1.5, -0.1, float("nan")])
def test_a_number_outside_the_range_is_refused_with_the_question(register: Any, value: float) -> None:
    register("odd", Metric(measure=lambda said, asked, rules: value, label="Odd", needs_gold=False))
    task = load_task("qa").model_copy(update={"metrics": ("odd",)})
    told = r"metrics = 'odd': does not fit question 'q1': it gave .*, which is not from 0 to 1"
    with pytest.raises(ConfigError, match=told):
        score(task, [LINE], [SAID])


def test_a_metric_that_needs_gold_answers_is_not_asked_without_them() -> None:
    with pytest.raises(ConfigError, match="metrics = 'exact_match': does not fit question 'q1': it has no gold answer"):
        score(load_task("qa"), [LINE], [SAID])


def test_a_range_is_not_empty() -> None:
    with pytest.raises(ValueError, match="a metric needs a range, and 1 to 1 is none"):
        metric(label="x", low=1, high=1)
