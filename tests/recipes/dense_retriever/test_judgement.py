"""From what was found to values of a question, means and paired differences, worked by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from retro.qa.question import Context
from retro.recipes.dense_retriever.evaluation import rankings
from retro.recipes.dense_retriever.evaluation.judgement import Asked, Found, differences, found_of, judge, means
from retro.recipes.dense_retriever.evaluation.rankings import rank
from retro.recipes.knowledge_conflict.metrics import Intervals

FEW = Intervals(samples=50)


def document(name: str) -> str:
    return name.partition("#")[0]


def passages(*names: str, text: str = "") -> list[Context]:
    return [Context(f"T {name}", text or f"text of {name}", name, 1.0 / place) for place, name in enumerate(names, 1)]


def test_a_question_is_judged_in_every_unit_of_which_something_is_known() -> None:
    asked = [Asked(id="q", question="?", relevant={"d1#2": 1}, documents=frozenset({"d1"}), answers=("Rome",))]
    found = [Found(ids=("d2#0", "d1#0", "d3#1", "d1#2"), answers=(False, False, True, True))]
    [values] = judge(asked, found, (1, 3), document)
    assert values == {
        "segment_top1": 0.0, "segment_top3": 0.0, "segment_mrr10": 0.25, "segment_mrr": 0.25,
        "document_top1": 0.0, "document_top3": 1.0, "document_mrr10": 0.5, "document_mrr": 0.5,
        "answer_top1": 0.0, "answer_top3": 1.0, "answer_mrr10": 1 / 3, "answer_mrr": 1 / 3,
        "ndcg10": pytest.approx(0.430677, abs=1e-6), "recall3": 0.0,
    }  # fmt: skip


def test_a_unit_of_which_nothing_is_known_is_not_judged() -> None:
    found = [Found(ids=("d1",), answers=(True,))]
    assert set(judge([Asked(id="q", question="?", answers=("x",))], found, (1,), document)[0]) == {
        "answer_top1", "answer_mrr10", "answer_mrr",
    }  # fmt: skip
    assert judge([Asked(id="q", question="?")], found, (1,), document) == [{}]


def test_a_question_for_which_nothing_is_relevant_counts_as_nothing_and_is_known() -> None:
    one = Asked(id="q", question="?", relevant={"d1": 0})
    assert one.without_relevant
    assert not Asked(id="q", question="?").without_relevant
    assert set(judge([one], [Found(ids=("d1",))], (1,), document)[0].values()) == {0.0}


def test_a_question_for_which_nothing_was_found_counts_as_nothing() -> None:
    asked = [Asked(id="q", question="?", relevant={"d1": 1}, documents=frozenset({"d1"}), answers=("x",))]
    assert set(judge(asked, [Found()], (1, 5), document)[0].values()) == {0.0}


def test_answers_are_looked_for_in_what_was_found() -> None:
    found = found_of(passages("a", "b", "c", text="It is Rome."), ["ROME", "Paris"], 2, leave_out=None)
    assert (found.ids, found.answers) == (("a", "b"), (True, True))
    assert found.best == {"title": "T a", "text": "It is Rome."}
    assert found_of(passages("a"), [], 2, leave_out=None).answers == ()
    assert found_of([], ["x"], 2, leave_out=None) == Found()


def test_the_question_s_own_document_is_left_out() -> None:
    assert found_of(passages("a", "q", "b"), [], 2, leave_out="q").ids == ("a", "b")


def test_means_are_over_the_questions_that_have_a_metric() -> None:
    made = means([{"x": 1.0, "y": 0.5}, {"x": 0.0}, {"x": 1.0}], FEW)
    assert (made["x"]["mean"], made["x"]["count"]) == (0.666667, 3)
    assert (made["y"]["mean"], made["y"]["low"], made["y"]["high"], made["y"]["count"]) == (0.5, 0.5, 0.5, 1)


def test_differences_are_paired_and_tested() -> None:
    a = [{"top": 0.0, "mrr": 0.2}] * 6 + [{"top": 1.0, "mrr": 1.0}] * 2
    b = [{"top": 1.0, "mrr": 0.7}] * 6 + [{"top": 1.0, "mrr": 1.0}, {"mrr": 1.0}]
    made = differences(a, b, FEW)
    # Six questions that only b has right: 2 / 2^6.
    assert {name: made["top"][name] for name in ("a", "b", "mean", "count", "test", "p")} == {
        "a": 0.142857, "b": 1.0, "mean": 0.857143, "count": 7, "test": "mcnemar", "p": 0.03125,
    }  # fmt: skip
    assert (made["mrr"]["mean"], made["mrr"]["count"], made["mrr"]["test"]) == (0.375, 8, "sign_flips")
    # All six of one sign: 2 of 2^6 choices of signs are as far from 0, by 10,000 draws.
    assert made["mrr"]["p"] == pytest.approx(2 / 64, abs=0.006)


def test_differences_of_metrics_that_only_one_has_are_none() -> None:
    assert differences([{"x": 1.0}], [{"y": 1.0}], FEW) == {}


class Counting:
    """A retriever that says how often it was asked, and stops after some questions."""

    identity: Mapping[str, Any] = {"kind": "counting"}

    def __init__(self, most: int = 1000) -> None:
        self.asked, self.most = list[str](), most

    def search(self, queries: Sequence[str], n: int) -> list[list[Context]]:
        if len(self.asked) + len(queries) > self.most:
            raise KeyboardInterrupt
        self.asked += queries
        return [passages(f"{query}#0", f"{query}#1", f"{query}#2")[:n] for query in queries]


def questions(count: int) -> list[Asked]:
    return [Asked(id=f"q{number}", question=f"d{number}", answers=("text",)) for number in range(count)]


def ranked(folder: Path, retriever: Counting, **how: Any) -> list[Found]:
    return rank(questions(5), retriever, folder / "x.jsonl", **({"n": 2, "questions_per_block": 2} | how))


def test_what_was_found_is_written_line_by_line(tmp_path: Path) -> None:
    found = ranked(tmp_path, Counting())
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert [one["id"] for one in lines] == ["q0", "q1", "q2", "q3", "q4"]
    assert lines[3] == {
        "id": "q3", "ids": ["d3#0", "d3#1"], "scores": [1.0, 0.5], "answers": [True, True],
        "best": {"title": "T d3#0", "text": "text of d3#0"},
    }  # fmt: skip
    assert found[3].ids == ("d3#0", "d3#1")


def test_stopped_within_a_set_it_goes_on_with_the_next_block(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        ranked(tmp_path / "a", Counting(3))
    again = Counting()
    found = ranked(tmp_path / "a", again)
    assert again.asked == ["d2", "d3", "d4"]
    assert found == ranked(tmp_path / "b", Counting())
    assert (tmp_path / "a" / "x.jsonl").read_bytes() == (tmp_path / "b" / "x.jsonl").read_bytes()


def test_what_was_found_under_other_settings_is_not_taken(tmp_path: Path) -> None:
    ranked(tmp_path, Counting())
    again = Counting()
    assert {len(one.ids) for one in ranked(tmp_path, again, n=1)} == {1}
    assert len(again.asked) == 5
    assert len(list((tmp_path / rankings.BEGUN).iterdir())) == 2


def test_one_more_is_searched_where_the_question_itself_may_be_found(tmp_path: Path) -> None:
    class Own(Counting):
        def search(self, queries: Sequence[str], n: int) -> list[list[Context]]:
            return [passages(f"q{query[1:]}", "a", "b")[:n] for query in queries]

    assert {one.ids for one in ranked(tmp_path, Own(), exclude_own_id=True)} == {("a", "b")}
