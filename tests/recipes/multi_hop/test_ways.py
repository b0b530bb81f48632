"""IRCoT and the router, on the same protocol as decomposition."""

from __future__ import annotations

from collections.abc import Mapping

from retro.qa.question import Question
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
    assert chained(Reply(excess=3))[0].failed == "model: the prompt is too long"
    assert chained("")[0].failed == "model: it wrote nothing"
    outcome, _, _ = chained("the answer is 4", shelf={"Which is older?": Found(problem="timed out", refused=True)})
    assert (outcome.answer, outcome.notes) == ("4", ("search_failed: timed out",))


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
