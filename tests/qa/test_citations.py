"""ALCE's citation recall and precision, worked by hand: a passage supports a sentence if it has all of its words."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from retro.qa.citations import (
    CitationScore,
    CitedSentence,
    cited_sentences,
    rendered_passage,
    score_citations,
    without_citations,
)


def by_words(premises: Sequence[str], hypotheses: Sequence[str]) -> list[bool]:
    return [words(two) <= words(one) for one, two in zip(premises, hypotheses, strict=True)]


def words(text: str) -> set[str]:
    return set(text.lower().replace(".", " ").split())


PASSAGES = ["red fox", "lazy dog", "red fox and lazy dog", "blue sky"]


def scored(answer: str, passages: Sequence[str] = PASSAGES) -> tuple[float, float]:
    (found,) = score_citations([answer], [passages], by_words)
    return found.recall, found.precision


@pytest.mark.parametrize(
    ("answer", "recall", "precision"),
    [
        # One citation: right or wrong.
        ("Red fox [1].", 1, 1),
        ("Red fox [2].", 0, 0),
        # Supported by both together alone: both are needed.
        ("Red dog [1][2].", 1, 1),
        # The second adds nothing: it does not support the sentence, and the first does without it.
        ("Red fox [1][4].", 1, 1 / 2),
        ("Red fox [4][1].", 1, 1 / 2),
        # Each supports it by itself: neither is idle.
        ("Red fox [1][3].", 1, 1),
        # Two needed together and an idle one: the idle one is told by what is left without it.
        ("Red dog [1][2][4].", 1, 2 / 3),
        # [1] and [2] would do together, but [3] alone does too: without either of the first two it is still supported.
        ("Red dog [1][2][3].", 1, 1 / 3),
        # No such passage: the sentence does not count, and none of its citations does, even beside a right one.
        ("Red fox [5].", 0, 0),
        ("Red fox [1][5].", 0, 0),
        # Citations count from 1: [0] is no passage, and not the last one.
        ("Blue sky [0].", 0, 0),
        # No citation.
        ("Red fox.", 0, 0),
        ("", 0, 0),
        ("[1]", 0, 0),
        # More than three: the first three count, of which [1] is right and the others are idle; the fourth is not seen.
        ("Red fox [1][2][4][3].", 1, 1 / 3),
        ("Blue sky [1][2][3][4].", 0, 0),
        # But a passage that there is not is seen wherever it stands.
        ("Red fox [1][2][4][9].", 0, 0),
        # A passage cited twice is two citations, of which each supports the sentence.
        ("Red fox [1][1].", 1, 1),
        # Of two sentences one is supported; of three citations one is right.
        ("Red fox [1]. Blue dog [1][2].", 1 / 2, 1 / 3),
        # A sentence without citations lowers recall alone.
        ("Red fox [1]. Blue sky.", 1 / 2, 1),
        # A sentence that cites a passage that there is not lowers recall alone.
        ("Red fox [1]. Blue sky [7].", 1 / 2, 1),
        # After the full stop, a citation goes with the sentence before it.
        ("Red fox. [1] Blue sky. [4]", 1, 1),
        ("Red fox.[1][4] Blue sky.[4]", 1, 2 / 3),
    ],
)
def test_citations_worked_by_hand(answer: str, recall: float, precision: float) -> None:
    assert scored(answer) == pytest.approx((recall, precision))


def test_answers_are_scored_apart_with_passages_of_their_own() -> None:
    found = score_citations(["Red fox [1].", "Red fox [1].", ""], [PASSAGES, PASSAGES[1:], []], by_words)
    assert found == [CitationScore(1, 1), CitationScore(0, 0), CitationScore(0, 0)]


def test_what_is_entailed_is_asked_at_most_three_times_and_no_pair_twice() -> None:
    asked: list[list[tuple[str, str]]] = []

    def counted(premises: Sequence[str], hypotheses: Sequence[str]) -> list[bool]:
        asked.append(list(zip(premises, hypotheses, strict=True)))
        return by_words(premises, hypotheses)

    answers = ["Red fox [1].", "Red fox [1][4].", "Red fox [1]."]
    score_citations(answers, [PASSAGES] * 3, counted)
    # What is left without [4] is [1], of which is known already that it supports the sentence: no third call.
    assert asked == [
        [("red fox", "Red fox."), ("red fox\nblue sky", "Red fox.")],
        [("blue sky", "Red fox.")],
    ]
    assert score_citations(["No citation."], [PASSAGES], counted) == [CitationScore(0, 0)]
    assert len(asked) == 2


def test_a_judge_that_loses_a_verdict_is_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        score_citations(["Red fox [1]."], [PASSAGES], lambda premises, hypotheses: [])
    with pytest.raises(ValueError, match="zip"):
        score_citations(["Red fox [1]."], [], by_words)


def test_how_many_citations_of_a_sentence_count_can_be_said() -> None:
    (found,) = score_citations(["Blue sky [1][2][3][4]."], [PASSAGES], by_words, most_cited=4)
    assert found == CitationScore(1, 1 / 4)


@pytest.mark.parametrize(
    ("answer", "sentences"),
    [
        ("A b [1]. C d [2].", ["A b [1].", "C d [2]."]),
        ("A b.[1] C d.[2]", ["A b.[1]", "C d.[2]"]),
        ("A b. [1] [2] C d.", ["A b. [1] [2]", "C d."]),
        ('He said "no." [1] She left!', ['He said "no." [1]', "She left!"]),
        # Not every full stop ends a sentence.
        ("Dr. J. K. Rowe met St. Ann [1]. Then", ["Dr. J. K. Rowe met St. Ann [1].", "Then"]),
        ("In the U.S. Army it was 3.5 ft. long [1].", ["In the U.S. Army it was 3.5 ft. long [1]."]),
        ("e.g. this, i.e. that. Done.", ["e.g. this, i.e. that.", "Done."]),
        ("After World War I. It ended.", ["After World War I.", "It ended."]),
        ("1. First. 2. Second.", ["1. First.", "2. Second."]),
        # A citation after it says that one did.
        ("He lived in the U.S.[1] The end.", ["He lived in the U.S.[1]", "The end."]),
        ("Really?! Yes... No", ["Really?!", "Yes...", "No"]),
        ("no stop at all [1]", ["no stop at all [1]"]),
        ("[1] It rained. [2]", ["[1] It rained. [2]"]),
    ],
)
def test_sentences_worked_by_hand(answer: str, sentences: list[str]) -> None:
    assert [one.text for one in cited_sentences(answer)] == [without_citations(one).strip() for one in sentences]


def test_a_sentence_has_its_citations_and_its_text_without_them() -> None:
    assert cited_sentences("It is red [3][1], they say [12]. So [a] it is. [2]") == [
        CitedSentence("It is red, they say.", (3, 1, 12)),
        CitedSentence("So [a it is.", (2,)),
    ]
    # The bracket after a number that is not closed, and a list of numbers, as ALCE reads both.
    assert cited_sentences("Red [1, 2] fox [3") == [CitedSentence("Red, 2 fox", (1, 3))]
    assert cited_sentences("Red [" + "9" * 5000 + "].")[0].cited == (999_999_999,)


def test_a_passage_is_judged_with_its_title() -> None:
    assert rendered_passage("Fox", "It is red.") == "Title: Fox\nIt is red."
    assert rendered_passage("", "It is red.") == "It is red."
