"""Replies are read strictly: what is not in its place is named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from retro.qa.formats.item import BadItemError
from retro.recipes.multi_hop.replies import fields_of, fields_of_completion
from retro.teacher.request import Completion

NAMES = ("Entity 1", "Question 1", "Paragraph 1")
GOOD = "+ Entity 1: Alma Bridge\n\n+ Question 1: How long is the Alma Bridge?\n+Paragraph 1 :  It is 3: no, 4 km long. "


def test_fields_are_read_line_by_line() -> None:
    assert fields_of(GOOD, NAMES) == {
        "Entity 1": "Alma Bridge",
        "Question 1": "How long is the Alma Bridge?",
        "Paragraph 1": "It is 3: no, 4 km long.",
    }


@pytest.mark.parametrize(
    ("reply", "reason", "words"),
    [
        ("", "missing_field", "has no field 'Entity 1'"),
        (GOOD.replace("+ Question 1: How long is the Alma Bridge?\n", ""), "missing_field", "'Question 1'"),
        (f"{GOOD}\n+ Entity 1: Bern Tower", "field_twice", "has the field 'Entity 1' twice"),
        (
            "+ Question 1: a\n+ Entity 1: b\n+ Paragraph 1: c",
            "fields_out_of_order",
            "Question 1, Entity 1, Paragraph 1",
        ),
        (GOOD.replace("Alma Bridge\n\n", "\n"), "empty_field", "has nothing in the field 'Entity 1'"),
        (f"{GOOD}\n+ Answer 1: 4", "unknown_field", "has a field 'Answer 1'"),
        (f"Here you are:\n{GOOD}", "text_outside_fields", "'Here you are:'"),
        (f"{GOOD}\nIt was built in 1856.", "text_outside_fields", "'It was built in 1856.'"),
        (GOOD.replace("+ Question 1", "Question 1"), "text_outside_fields", "'Question 1: How long"),
        (GOOD.replace("Alma Bridge\n\n", "<entity 1>\n"), "placeholder", "'<entity 1>' in the field 'Entity 1'"),
        (GOOD.replace("the Alma", "the {entity}"), "placeholder", "'{entity}'"),
        (GOOD.replace("the Alma", "[City name]"), "placeholder", "'[City name]'"),
        (GOOD.replace("the Alma Bridge", "Entity 1"), "placeholder", "'Entity 1' in the field 'Question 1'"),
        (GOOD.replace("Alma Bridge\n\n", "N/A\n"), "placeholder", "'N/A'"),
        (GOOD.replace("Alma Bridge\n\n", "...\n"), "placeholder", "'...'"),
    ],
)
def test_a_malformed_reply_is_refused_with_the_reason(reply: str, reason: str, words: str) -> None:
    with pytest.raises(BadItemError) as caught:
        fields_of(reply, NAMES)
    assert caught.value.reason == reason
    assert words in caught.value.problem


def test_brackets_in_what_may_be_quoted_are_no_placeholder() -> None:
    reply = "+ Reasoning: It says [sic] 4 km.\n+ Answer: 4 km"
    assert fields_of(reply, ("Reasoning", "Answer"), quoted="It is [sic] 4 km long.")["Answer"] == "4 km"
    with pytest.raises(BadItemError, match="placeholder"):
        fields_of(reply, ("Reasoning", "Answer"), quoted="It is 4 km long.")


def test_comparisons_and_numbers_in_brackets_are_no_placeholders() -> None:
    assert fields_of("+ Answer: 3 < 5 and 7 > 6 [1]", ("Answer",)) == {"Answer": "3 < 5 and 7 > 6 [1]"}


def test_a_reply_that_was_cut_is_refused_whatever_it_has() -> None:
    reply = Completion(
        text="+ Answer: It was built in 18", input_tokens=9, output_tokens=9, finish_reason="length", model="m",
        cached=False,
    )  # fmt: skip
    with pytest.raises(BadItemError, match=r"cut_at_max_tokens: ends at max_tokens: '.*in 18'"):
        fields_of_completion(reply, ("Answer",))
    whole = replace(reply, finish_reason="stop")
    assert fields_of_completion(whole, ("Answer",)) == {"Answer": "It was built in 18"}
