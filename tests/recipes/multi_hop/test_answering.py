"""Full answers: what is asked for, what is composed of the replies, and every reason to drop an item."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from retro.recipes.multi_hop.answering import Dropped, OpenItem, answer_all
from retro.recipes.multi_hop.items import MultiHopItem, SubQuestion
from retro.recipes.multi_hop.prompts import Texts
from retro.teacher.request import TeacherRequest
from tests.teacher.asking import scripted

TEXTS = Texts.load(None)
FIRST = SubQuestion(question="When was A built?", paragraph="A: 1856 [sic].", long_answer="", answer="1856")
SECOND = SubQuestion(question="When was B built?", paragraph="B: 1220.", long_answer="", answer="1220")
ITEM = MultiHopItem(
    question="Which is older?", multihop=True, sub_questions=(FIRST, SECOND), final_answer="", meta={"kept": 1}
)
OPEN = OpenItem(item=ITEM, golds=((("1856",),), (("1220",),)), final_golds=(("B",), ("the B",)))
GOOD = {
    "When was A built?": "+ Reasoning: It says 1856 [sic].\n+ Answer: It was built in 1856.",
    "When was B built?": "+ Reasoning: It says so.\n+ Answer: It was built in 1220.",
    "Which is older?": "+ Summary: 1856 and 1220.\n+ Reasoning: 1220 is earlier.\n+ Answer: B is older.",
}


def answered(
    folder: Path, one: OpenItem, replies: dict[str, str] = GOOD, *, require_gold: bool = True
) -> tuple[MultiHopItem | Dropped, list[str]]:
    """What becomes of an item, and what was asked for it."""
    asked = list[str]()

    def reply(request: TeacherRequest) -> str:
        asked.append(request.messages[-1]["content"])
        return next(said for question, said in replies.items() if f"Question: {question}" in asked[-1])

    with scripted(folder, reply) as teacher:
        [found] = answer_all(teacher, TEXTS, [one], max_tokens=50, what="test", require_gold=require_gold)
    return found, asked


def test_answers_of_sub_questions_are_the_facts_of_the_final_one(tmp_path: Path) -> None:
    found, asked = answered(tmp_path, OPEN)
    assert isinstance(found, MultiHopItem)
    assert [sub.long_answer for sub in found.sub_questions] == [
        "It says 1856 [sic].\nAnswer:It was built in 1856.",
        "It says so.\nAnswer:It was built in 1220.",
    ]
    assert found.final_answer == "Summary:1856 and 1220.\nAnswer:B is older."
    assert (found.answer, found.meta) == ("B is older.", {"kept": 1, "reasoning": "1220 is earlier."})
    assert len(asked) == 3
    assert "- When was A built? It was built in 1856.\n- When was B built? It was built in 1220.\n" in asked[2]


def test_a_gold_answer_stays_the_short_one(tmp_path: Path) -> None:
    found, _ = answered(tmp_path, replace(OPEN, item=replace(ITEM, answer="B")))
    assert isinstance(found, MultiHopItem)
    assert found.answer == "B"


NO_ANSWER = "+ Reasoning: It says nothing.\n+ Answer: the paragraph does not say"
UNKNOWN = "+ Summary: a\n+ Reasoning: b\n+ Answer: This cannot be answered from what was found."


@pytest.mark.parametrize(
    ("question", "reply", "reason"),
    [
        ("When was A built?", "+ Reasoning: It says so.\n+ Answer: It was built in 1857.", "gold_answer_not_said"),
        ("When was A built?", "+ Reasoning: It says so.\n+ Answer: It was built in 18561.", "gold_answer_not_said"),
        ("When was A built?", NO_ANSWER, "no_answer_found"),
        ("When was A built?", "It was built in 1856.", "text_outside_fields"),
        ("When was A built?", "+ Answer: 1856.", "missing_field"),
        ("When was A built?", "+ Reasoning: [the text]\n+ Answer: 1856.", "placeholder"),
        ("When was A built?", "+ Reasoning: Answer: 1856\n+ Answer: 1856.", "marker_in_text"),
        ("When was A built?", "", "missing_field"),
    ],
)
def test_a_sub_answer_that_fails_drops_the_item(tmp_path: Path, question: str, reply: str, reason: str) -> None:
    found, asked = answered(tmp_path, OPEN, {**GOOD, question: reply})
    assert isinstance(found, Dropped)
    assert found.reason == f"sub-question: {reason}"
    assert found.item == ITEM
    # Both sub-questions are asked at once; the final answer is not.
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("+ Summary: a\n+ Reasoning: b\n+ Answer: A is older.", "gold_answer_not_said"),
        (UNKNOWN, "no_answer_found"),
        ("+ Summary: a\n+ Answer: B", "missing_field"),
        ("+ Summary: Summary: a\n+ Reasoning: b\n+ Answer: B", "marker_in_text"),
    ],
)
def test_a_final_answer_that_fails_drops_the_item(tmp_path: Path, reply: str, reason: str) -> None:
    found, _ = answered(tmp_path, OPEN, {**GOOD, "Which is older?": reply})
    assert isinstance(found, Dropped)
    assert found.reason == f"final answer: {reason}"


def test_any_gold_answer_will_do_and_all_spans_of_it(tmp_path: Path) -> None:
    spans = replace(OPEN, final_golds=(("X", "Y"), ("Z",)))
    for said, good in (("Y, then X.", True), ("Z.", True), ("Y alone.", False)):
        reply = f"+ Summary: a\n+ Reasoning: b\n+ Answer: {said}"
        found, _ = answered(tmp_path / said, spans, {**GOOD, "Which is older?": reply})
        assert isinstance(found, MultiHopItem) == good


def test_what_cannot_be_answered_must_be_found_so(tmp_path: Path) -> None:
    lost = replace(ITEM, sub_questions=(FIRST, replace(SECOND, unanswerable=True)))
    one = replace(OPEN, item=lost, final_golds=())
    said = {**GOOD, "When was B built?": NO_ANSWER, "Which is older?": UNKNOWN}
    found, _ = answered(tmp_path / "good", one, said)
    assert isinstance(found, MultiHopItem)
    assert found.answer == ""
    found, _ = answered(tmp_path / "sub", one, {**said, "When was B built?": GOOD["When was B built?"]})
    assert isinstance(found, Dropped)
    assert found.reason == "sub-question: answered_without_an_answer"
    found, _ = answered(tmp_path / "final", one, {**said, "Which is older?": GOOD["Which is older?"]})
    assert isinstance(found, Dropped)
    assert found.reason == "final answer: answered_without_an_answer"


def test_without_the_check_only_the_form_counts(tmp_path: Path) -> None:
    said = {**GOOD, "When was A built?": NO_ANSWER}
    found, _ = answered(tmp_path / "a", OPEN, said, require_gold=False)
    assert isinstance(found, MultiHopItem)
    found, _ = answered(tmp_path / "b", OPEN, {**GOOD, "When was A built?": "1856"}, require_gold=False)
    assert isinstance(found, Dropped)


def test_a_single_hop_item_has_its_reasoning_before_the_answer_where_that_is_wanted(tmp_path: Path) -> None:
    single = replace(ITEM, question=FIRST.question, multihop=False, sub_questions=(FIRST,))
    one = OpenItem(item=single, golds=((("1856",),),))
    found, asked = answered(tmp_path / "a", one)
    assert isinstance(found, MultiHopItem)
    assert found.final_answer == "It was built in 1856."
    assert len(asked) == 1
    found, _ = answered(tmp_path / "b", replace(one, with_reasoning=True))
    assert isinstance(found, MultiHopItem)
    assert found.final_answer == "It says 1856 [sic]. It was built in 1856."
