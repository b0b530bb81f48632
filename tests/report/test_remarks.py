from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from retro.report.remarks import Remark, remarks
from retro.report.run_summary import RunSummary, summarize


def rows(*found: tuple[str, str, float]) -> dict[str, Any]:
    return {"split": "valid", "rows": [{"model": m, "neighbors": n, "perplexity": p} for m, n, p in found]}


def estimate(mean: float, low: float, high: float, count: int = 500) -> dict[str, float]:
    return {"mean": mean, "low": low, "high": high, "count": count}


def scores(difference: dict[str, float], **more: Any) -> dict[str, Any]:
    coverage = {"recall": None, "answer_in_passages": None, "skipped": 0, "unanswered": 0}
    return {
        "questions": 500,
        "metrics": ["exact_match"],
        "settings": {
            "with_passages": {"exact_match": estimate(0.4, 0.3, 0.5)} | coverage,
            "closed_book": {"exact_match": estimate(0.3, 0.2, 0.4)} | coverage,
        },
        "differences": [{"setting": "with_passages", "minus": "closed_book", "exact_match": difference}],
        "intervals": {"confidence": 0.95},
    } | more


@pytest.fixture
def empty(tmp_path: Path) -> RunSummary:
    return summarize(tmp_path)


def about(run: RunSummary, words: str) -> Remark:
    return next(one for one in remarks(run) if words in one.head)


@pytest.mark.parametrize(
    ("shuffled", "tone", "head"),
    [
        (102.0, "good", "The right neighbors lower perplexity"),
        (98.0, "bad", "The right neighbors do not lower perplexity"),
        (100.05, "open", "Neighbors make no difference"),
    ],
)
def test_whether_neighbors_help_is_told_by_the_numbers(
    empty: RunSummary, shuffled: float, tone: str, head: str
) -> None:
    run = replace(empty, perplexity=rows(("retro", "real", 100.0), ("retro", "shuffled", shuffled)))
    assert about(run, head).tone == tone


def test_the_share_of_parameters_in_the_gain_is_worked_out(empty: RunSummary) -> None:
    # GPT 120, equal 105, Retro 100: 15 of the 20 come with the parameters.
    table = rows(("retro", "real", 100.0), ("gpt", "-", 120.0), ("gpt_equal", "-", 105.0))
    remark = about(replace(empty, perplexity=table), "Retro is ahead of GPT")
    assert remark.tone == "good"
    assert "75 % comes with the added parameters alone" in remark.text


@pytest.mark.parametrize(
    ("other", "name", "tone", "head"),
    [
        (95.0, "gpt_equal", "bad", "Retro is behind GPT"),
        (100.02, "gpt_equal", "open", "level"),
        (120.0, "gpt", "open", "Retro is ahead of GPT"),
    ],
)
def test_a_gpt_is_compared_fairly(empty: RunSummary, other: float, name: str, tone: str, head: str) -> None:
    run = replace(empty, perplexity=rows(("retro", "real", 100.0), (name, "-", other)))
    remark = about(run, head)
    assert remark.tone == tone
    assert ("not the worth of retrieval alone" in remark.text) == (name == "gpt")


@pytest.mark.parametrize(
    ("found", "tone", "head"),
    [
        (estimate(0.1, 0.02, 0.2), "good", "Answers are better with passages than closed-book"),
        (estimate(-0.1, -0.2, -0.02), "bad", "Answers are worse with passages than closed-book"),
        (estimate(0.1, -0.02, 0.2), "open", "No sure difference, with passages against closed-book"),
    ],
)
def test_whether_passages_help_answers_is_told_by_the_interval(
    empty: RunSummary, found: dict[str, float], tone: str, head: str
) -> None:
    assert about(replace(empty, scores=scores(found)), head).tone == tone


def test_bounds_of_the_scores_are_told_when_there_are_any(empty: RunSummary) -> None:
    plain = scores(estimate(0.1, 0.02, 0.2))
    assert not [one for one in remarks(replace(empty, scores=plain)) if "bounds" in one.head]
    plain["questions"] = 50
    given = plain["settings"]["with_passages"]
    given |= {"recall": {"at": {"2": 0.5, "10": 0.8}, "questions": 50}, "answer_in_passages": 0.3, "skipped": 2}
    text = about(replace(empty, scores=plain), "bounds").text
    assert "50 questions are few" in text
    assert "among the first 10 passages for 80.0 %" in text
    assert "some answers come from its weights" in text
    assert "2 questions did not fit" in text


def test_a_model_that_answers_nothing_is_said_to(empty: RunSummary) -> None:
    low = scores(estimate(0.0, 0.0, 0.0))
    for mine in low["settings"].values():
        mine["exact_match"] = estimate(0.02, 0.0, 0.04)
    assert "No setting gets above 2.0 %" in about(replace(empty, scores=low), "bounds").text


def test_what_was_not_measured_is_said(empty: RunSummary) -> None:
    heads = [one.head for one in remarks(empty)]
    assert heads == ["Perplexity was not measured", "Answers were not scored", "Not everything is here"]
