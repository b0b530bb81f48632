"""IRCoT and the router, on the same protocol as decomposition."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from retro.qa.question import Context, Question, Segment
from retro.recipes.multi_hop.adaptive import adaptive
from retro.recipes.multi_hop.decompose import decompose
from retro.recipes.multi_hop.dialogs import Chat, DialogTexts
from retro.recipes.multi_hop.ircot import ircot
from retro.recipes.multi_hop.protocol import Found, Outcome, Reply, Steps
from tests.recipes.multi_hop.scripted import Scripted, Shelf, outcome_of, question

TEXTS = DialogTexts.load(None)
SHELF = {
    "Which is older?": "There is a bridge and a tower.",
    "The bridge is from 1873.": "The tower is from 1902.",
    "The tower is from 1902.": "It has a bell.",
}


def chained(
    *says: str | Reply, hops: int = 4, shelf: Mapping[str, str | Found] | None = None
) -> tuple[Outcome, Scripted, Shelf]:
    model, found = Scripted(*says), Shelf(SHELF if shelf is None else shelf)
    return outcome_of(ircot(question(), TEXTS, hops, 40), model, found), model, found


def test_each_sentence_is_searched_with_until_one_has_the_answer() -> None:
    outcome, model, shelf = chained(
        "The bridge is from 1873. It is old.", "The tower is from 1902.", "So the answer is: the bridge."
    )
    # Of a reply the first sentence is taken.
    assert shelf.searched == ["Which is older?", "The bridge is from 1873.", "The tower is from 1902."]
    assert (outcome.answer, outcome.failed, outcome.notes) == ("the bridge", "", ())
    assert [hop.answer for hop in outcome.hops][:2] == ["The bridge is from 1873.", "The tower is from 1902."]
    # All that was found so far is read, and all that was thought.
    for text in (*list(SHELF.values()), "So far: The bridge is from 1873. The tower is from 1902."):
        assert text in model.asked[2]


def test_a_chain_ends_at_the_limit() -> None:
    outcome, model, _ = chained("The bridge is from 1873.", "The tower is from 1902.", hops=2)
    assert (outcome.answer, outcome.notes) == ("", ("hop_limit",))
    assert outcome.failed == "no_answer: no sentence says what it is"
    assert len(model.asked) == 2


def test_a_chain_without_a_sentence_says_why() -> None:
    assert chained(Reply(problem="down"))[0].failed == "model: down"
    # With 30, 15, 7, 3, 1 and no characters of what was found.
    assert chained(*[Reply(excess=3)] * 6)[0].failed == "model: the prompt is too long"
    assert chained("")[0].failed == "model: it wrote nothing"
    outcome, _, _ = chained("the answer is 4", shelf={"Which is older?": Found(problem="timed out", refused=True)})
    assert (outcome.answer, outcome.notes) == ("4", ("search_failed: timed out",))


def test_an_answer_is_all_that_stands_behind_the_words_in_any_alphabet() -> None:
    # A capital İ is two letters in small letters.
    assert chained("İn short, the Answer IS: İstanbul.")[0].answer == "İstanbul"
    assert chained("Some say the answer is 3, and the answer is 4.")[0].answer == "4"


def test_a_chain_reads_the_first_fifteen_passages_and_no_more() -> None:
    many = Found(passages=tuple(Context("", f"text{n}.") for n in range(20)))
    shelf: dict[str, str | Found] = {"Which is older?": many, "One.": "text20."}
    _, model, _ = chained("One.", "the answer is 4", shelf=shelf)
    for prompt in model.asked:
        assert "text14." in prompt
        assert "text15." not in prompt
        assert "text20." not in prompt


def test_a_chain_notes_what_goes_wrong() -> None:
    outcome, _, _ = chained("One.", "One.", Reply(segments=(Segment(text="the answer is 4"),), cut=True), shelf={})
    assert (outcome.answer, outcome.notes) == ("4", ("nothing_found", "repeated_query", "reply_cut"))
    # What is cut behind the sentence that is taken is not missed.
    cut = Reply(segments=(Segment(text="The answer is 4. And"),), cut=True)
    assert chained(cut)[0].notes == ()


def test_a_prompt_that_is_too_long_loses_half_of_its_passages() -> None:
    outcome, model, _ = chained(Reply(excess=9), Reply(excess=2), "The answer is 4.")
    assert (outcome.answer, outcome.notes) == ("4", ("context_cut",))
    # Of "There is a bridge and a tower." 30 characters, 15, and 7.
    assert [prompt.partition("user: ")[2].partition("\n")[0] for prompt in model.asked] == [
        "There is a bridge and a tower.", "There is a brid", "There i",
    ]  # fmt: skip


def several(one: Question) -> Steps:
    return decompose(one, Chat(TEXTS, 40, 0), 4)


def test_a_model_labels_and_the_question_goes_that_way() -> None:
    shelf = Shelf(SHELF)
    outcome = outcome_of(adaptive(question(), TEXTS, several, 40), Scripted("A", "Answer: the bridge"), shelf)
    assert (outcome.answer, outcome.route, outcome.hops, shelf.searched) == ("the bridge", "A", (), [])
    model = Scripted("It is B.", "Answer: the bridge")
    outcome = outcome_of(adaptive(question(), TEXTS, several, 40), model, shelf)
    assert (outcome.answer, outcome.route, shelf.searched) == ("the bridge", "B", ["Which is older?"])
    assert "There is a bridge and a tower.\nQuestion: Which is older?" in model.asked[1]
    script = Scripted("C", "Search: The bridge is from 1873.", "Answer: the bridge")
    outcome = outcome_of(adaptive(question(), TEXTS, several, 40), script, shelf)
    assert (outcome.answer, outcome.route, len(outcome.hops)) == ("the bridge", "C", 1)
    assert outcome.details()["multi_hop"]["route"] == "C"


@pytest.mark.parametrize(
    ("reply", "route"),
    [
        ("A question with several facts: C", "C"),
        ("A", "A"),
        (" **B**.", "B"),
        ("B: A fact has to be looked up", "B"),
        ("A question that needs B", "B"),
        ("A question.", "A"),
    ],
)
def test_a_label_is_the_reply_or_its_last_letter(reply: str, route: str) -> None:
    way = adaptive(question(), TEXTS, several, 40)
    assert outcome_of(way, Scripted(reply, "Answer: x"), Shelf(SHELF)).route == route


def test_one_search_notes_what_goes_wrong() -> None:
    refused = {"Which is older?": Found(problem="status 422", refused=True)}
    for shelf, noted in (({}, "nothing_found"), (refused, "search_failed: status 422")):
        outcome = outcome_of(adaptive(question(), TEXTS, several, 40), Scripted("B", "Answer: x"), Shelf(shelf))
        assert (outcome.answer, outcome.notes) == ("x", (noted,))
    cut = Reply(segments=(Segment(text="Answer: x"),), cut=True)
    outcome = outcome_of(adaptive(question(), TEXTS, several, 40), Scripted("B", Reply(excess=1), cut), Shelf(SHELF))
    assert outcome.notes == ("context_cut", "reply_cut")
    cut = Reply(segments=(Segment(text="A"),), cut=True)
    outcome = outcome_of(adaptive(question(), TEXTS, several, 40), Scripted(cut, "Answer: x"), Shelf(SHELF))
    assert (outcome.route, outcome.notes) == ("A", ("reply_cut",))


def test_a_label_that_cannot_be_asked_for_is_a_failure() -> None:
    for says, why in ((Reply(problem="down"), "down"), (Reply(excess=2), "the prompt is too long")):
        outcome = outcome_of(adaptive(question(), TEXTS, several, 40), Scripted(says), Shelf({}))
        assert (outcome.failed, outcome.route) == (f"model: {why}", "")


def test_a_classifier_of_ones_own_labels_without_the_model() -> None:
    way = adaptive(question(), TEXTS, several, 40, label=lambda text: "A" if "older" in text else "C")
    model = Scripted("Answer: the bridge")
    assert outcome_of(way, model, Shelf({})).route == "A"
    assert len(model.asked) == 1


def test_no_label_is_the_longest_way_and_noted() -> None:
    outcome = outcome_of(adaptive(question(), TEXTS, several, 40), Scripted("Hm.", "Answer: x"), Shelf({}))
    assert (outcome.route, outcome.notes) == ("C", ("no_label",))


def test_an_answer_that_does_not_come_is_a_failure() -> None:
    for says, why in (
        (Reply(problem="down"), "down"),
        (Reply(excess=2), "the prompt is too long"),
        ("", "it wrote nothing"),
    ):
        outcome = outcome_of(adaptive(question(), TEXTS, several, 40), Scripted("A", says), Shelf({}))
        assert outcome.failed == f"model: {why}"
    outcome = outcome_of(adaptive(question(), TEXTS, several, 40), Scripted("A", "Answer:"), Shelf({}))
    assert (outcome.answer, outcome.failed) == ("", "no_answer: the model said nothing that is one")
