"""Long answers: segments, beams, constraints and citations; probabilities by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from retro.generate.request import Completion
from retro.qa.question import Context
from retro.qa.sentences import sentences, with_citation
from retro.recipes.self_rag.long_answers import Beam, best_beams, cite
from tests.recipes.self_rag.fake import Says, ScriptedDecoder, answer, passage, told

A, B = passage("aa", "ta"), passage("bb")
PLAIN: dict[str, Any] = {"form": "long", "weights": {"use_seqscore": False, "use_utility": False}}
"""A segment's score is s_rel + s_sup."""
# Two segments: each passage gives one, and behind the second the answer ends.
RULES: dict[str, Says] = {
    "q ": {"[Retrieval]": 0.6, "[No Retrieval]": 0.4},
    "aa</paragraph>": {"[Relevant]": 0.9, "[Irrelevant]": 0.1},
    "bb</paragraph>": {"[Relevant]": 0.6, "[Irrelevant]": 0.4},
    r"aa</paragraph>\[Relevant\]": "x",
    r"bb</paragraph>\[Relevant\]": "y",
    "x": {"[Fully supported]": 0.5, "[Partially supported]": 0.3, "[No support / Contradictory]": 0.2},
    "y": {"[Fully supported]": 1.0},
    # Behind the second segment the answer ends.
    r"[xy].*[xy]\[Fully supported\]": "[Utility:5]",
    r"[xy]\[Fully supported\]": {"[Retrieval]": 0.5, "[No Retrieval]": 0.1},
}


def over(rules: dict[str, Says], new: dict[str, Says]) -> dict[str, Says]:
    """Rules that go before others, or take the place of those with the same pattern."""
    return {**new, **{pattern: says for pattern, says in rules.items() if pattern not in new}}


def long(
    rules: dict[str, Says], passages: Sequence[Context] = (A, B), mode: Any = "adaptive_retrieval", **settings: Any
) -> Completion:
    return answer(ScriptedDecoder(rules), passages, mode, **(PLAIN | settings))


def test_segments_follow_each_other_and_the_best_path_is_taken() -> None:
    found = long(RULES)
    # x: 0.9 + 0.65, y: 0.6 + 1; the products of two of them, the best being y y.
    assert [one["text"] for one in told(found)["segments"]] == ["y", "y"]
    assert [one["total"] for one in told(found)["segments"]] == [pytest.approx(1.6), pytest.approx(1.6)]
    assert found.text == "y y"
    assert found.ended == "end"
    assert told(found)["retrieval_probability"] == pytest.approx(0.6)


def test_a_beam_of_one_keeps_only_the_best_segment() -> None:
    # From the first on "x" leads to a much better second segment, which a beam of one never sees.
    bad: Says = "[No support / Contradictory]"
    rules = over(RULES, {r"x.*y": "[Fully supported]", r"y.*y": bad, r"y.*x": bad, r"Contradictory\]": "[Utility:1]"})
    # x y: 1.55 * 1.6; y x: 1.6 * 0.9; y y: 1.6 * 0.6.
    assert long(rules, beam_width=2).text == "x y"
    assert long(rules, beam_width=1).text == "y x"


def test_pruned_beams_are_the_worst_and_of_equals_the_later() -> None:
    beams = [
        Beam(prefix=None, score=score, segments=({"text": str(place)},)) for place, score in enumerate([1, 3, 2, 3])
    ]
    assert [one.text for one in best_beams(beams, 3)] == ["1", "3", "2"]


def test_the_depth_limits_the_segments_and_there_is_an_answer() -> None:
    endless = over(RULES, {r"[xy].*[xy]\[Fully supported\]": "[Retrieval]"})
    for depth in (1, 2, 4):
        found = long(endless, max_depth=depth)
        assert len(told(found)["segments"]) == depth
        assert found.text == " ".join("y" * depth)


def test_a_score_below_zero_counts_as_nothing() -> None:
    rules = over(RULES, {r"supported\]": "[Utility:1]", r"\[Utility:1\]": "[Retrieval]"})
    found = long(rules, [B], max_depth=2, weights={"w_rel": 0, "w_sup": 0, "w_use": 1.0, "use_seqscore": False})
    assert [one["total"] for one in told(found)["segments"]] == [pytest.approx(-1.0, abs=1e-5)] * 2
    assert found.text == "y y"


def test_unsupported_segments_are_dropped_unless_there_is_no_other() -> None:
    rules = over(RULES, {"x": "[No support / Contradictory]"})
    loose = {"w_rel": 5.0, "use_seqscore": False, "use_utility": False}
    assert long(rules, weights=loose, max_depth=1).text == "x"
    assert long(rules, weights=loose, max_depth=1, ignore_cont=True).text == "y"
    only = long(rules, [A], max_depth=1, ignore_cont=True)
    assert (only.text, told(only)["notes"]) == ("x", ["all_unsupported"])


def test_the_threshold_holds_at_every_segment() -> None:
    # Behind the first segment the ratio is 0.5 / 0.6.
    high = over(RULES, {"q ": {"[Retrieval]": 0.95, "[No Retrieval]": 0.05}, r"\[No Retrieval\]": "z"})
    found = long(high, threshold=0.9)
    assert [(one["text"], one["passage"]) for one in told(found)["segments"]] == [("y", 1), ("z", None)]
    assert [one["passage"] for one in told(long(high, threshold=0.7))["segments"]] == [1, 1]


def test_no_retrieval_becomes_retrieval_where_the_threshold_says_so() -> None:
    # The model would go on without; at 0.2 a chance of 0.3 against 0.4 is enough.
    behind: dict[str, Says] = {r"[xy]\[Fully supported\]": {"[No Retrieval]": 0.4, "[Retrieval]": 0.3}}
    rules = RULES | behind
    assert [one["passage"] for one in told(long(rules))["segments"]] == [1, 1]
    rules |= {r"\[No Retrieval\]": "z", "q ": {"[Retrieval]": 1.0}}
    rules |= {r"aa</paragraph>\[Relevant\]": "y"}
    # Asked for its own words, it writes [Retrieval] and goes on from there.
    rules = over(rules, {r"q \[Retrieval\]": "#"})
    [only] = told(long(rules, threshold=None))["segments"]
    assert (only["text"], only["tokens"]) == ("y z", ["[Relevant]", "[Fully supported]", "[No Retrieval]"])


def test_an_answer_that_begins_without_may_search_later() -> None:
    begins: dict[str, Says] = {"q ": {"[Retrieval]": 0.1, "[No Retrieval]": 0.9}}
    rules = over(RULES, begins | {r"\[No Retrieval\]": "z", "z": "[Retrieval]"})
    found = long(rules, threshold=0.2)
    assert [(one["text"], one["passage"]) for one in told(found)["segments"]][:2] == [("z", None), ("y", 1)]


def test_always_and_never() -> None:
    rules = over(RULES, {}) | {r"\[No Retrieval\]": "z", r"[xy]\[Fully supported\]": "[No Retrieval]"}
    assert [one["passage"] for one in told(long(rules, mode="always_retrieve"))["segments"]] == [1, 1]
    found = long(rules, mode="no_retrieval")
    assert (found.text, told(found)["retrieved"]) == ("z", False)
    found = long(rules, [], mode="always_retrieve")
    assert (found.text, told(found)["notes"]) == ("z", ["nothing_found"])


def test_evidence_that_is_used_on_stays_in_the_segment() -> None:
    rules = over(RULES, {r"y\[Fully supported\]": "[Continue to Use Evidence]", r"Evidence\]": "z"})
    [only] = told(long(rules, [B]))["segments"]
    assert (only["text"], only["passage"]) == ("y z", 0)


def test_a_new_search_for_each_segment_finds_other_passages() -> None:
    asked: list[str] = []

    def search(texts: list[str]) -> list[list[Context]]:
        asked.extend(texts)
        return [[passage("bb", "new")] for _ in texts]

    found = long(RULES, [A], search=search, search_each_segment=True)
    assert set(asked) == {"q  x"}
    assert [one["passage"] for one in told(found)["segments"]] == [0, 1]
    assert told(found)["passages"][1]["title"] == "new"
    assert long(RULES, [A], search=search).text == "x x"
    assert len(asked) == 1


def test_citations_begin_at_one_and_belong_to_the_passages_that_are_cited() -> None:
    passages = [{"id": str(place), "title": "", "text": ""} for place in range(4)]
    segments: list[dict[str, Any]] = [
        {"text": "First. Second one!", "passage": 3, "tokens": ["[Relevant]"]},
        {"text": "", "passage": 2, "tokens": ["[Relevant]"]},
        {"text": "not from it.", "passage": 1, "tokens": ["[Irrelevant]"]},
        {"text": "known", "passage": None, "tokens": []},
        {"text": "Third", "passage": 0, "tokens": ["[Relevant]"]},
        {"text": "Again.", "passage": 3, "tokens": ["[Relevant]"]},
    ]
    text, docs = cite(segments, passages)
    assert text == "First [1]. Second one [1]! not from it. known Third [2] Again [1]."
    assert [one["id"] for one in docs] == ["3", "0"]
    assert cite([], passages) == ("", [])


def test_an_answer_cites_what_it_was_written_from() -> None:
    found = long(RULES, [A], max_depth=1)
    assert told(found)["cited"] == "x [1]"
    assert told(found)["docs"] == [{"id": "d-aa", "title": "ta", "text": "aa"}]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("One. Two? Three!", ["One.", "Two?", "Three!"]),
        ("Dr. Smith met J. R. Ewing. He left.", ["Dr. Smith met J. R. Ewing.", "He left."]),
        ("It costs 3.5 m. In the U.S. it is more.", ["It costs 3.5 m.", "In the U.S. it is more."]),
        ('He said "No." Then he went.', ['He said "No."', "Then he went."]),
        ("no mark at the end", ["no mark at the end"]),
        ("", []),
        ("A list:\n- one\n- two", ["A list:", "- one", "- two"]),
    ],
)
def test_sentences(text: str, parts: list[str]) -> None:
    assert sentences(text) == parts


def test_a_citation_cuts_nothing() -> None:
    assert with_citation("no mark", 2) == "no mark [2]"
    assert with_citation('He said "No." It was so', 1) == 'He said "No [1]." It was so [1]'
