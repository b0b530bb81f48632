"""Short answers: when passages are read, which answer is taken, and what is told of it; probabilities by hand."""

from __future__ import annotations

from typing import Any

import pytest

from retro.common.errors import ConfigError
from retro.recipes.self_rag.short_answers import voted
from tests.recipes.self_rag.fake import Says, ScriptedDecoder, answer, answers, passage, told

A, B = passage("aa"), passage("bb")
WRITES: dict[str, Says] = {
    # After a passage: relevance, a word, support, utility, the end.
    "aa</paragraph>": {"[Relevant]": 0.9, "[Irrelevant]": 0.1},
    "bb</paragraph>": {"[Relevant]": 0.4, "[Irrelevant]": 0.6},
    r"aa</paragraph>\[Relevant\]": "x",
    r"bb</paragraph>\[Irrelevant\]": "y",
    "x": {"[Fully supported]": 0.5, "[Partially supported]": 0.3, "[No support / Contradictory]": 0.2},
    "y": {"[No support / Contradictory]": 0.8, "[Fully supported]": 0.2},
    r"(supported\]|Contradictory\])": {"[Utility:5]": 0.5, "[Utility:3]": 0.5},
    # Without one.
    r"\[No Retrieval\]": "z",
}


def wishes(retrieval: float) -> dict[str, Says]:
    """A model that would search with that probability."""
    return {"q ": {"[Retrieval]": 0.5 * retrieval, "[No Retrieval]": 0.5 * (1 - retrieval)}} | WRITES


@pytest.mark.parametrize(
    ("retrieval", "threshold", "reads"),
    [(0.21, 0.2, True), (0.19, 0.2, False), (0.5, 0.5, False), (0.51, 0.5, True), (0.001, 0.0, True)],
)
def test_passages_are_read_above_the_threshold(retrieval: float, threshold: float, reads: bool) -> None:
    found = answer(ScriptedDecoder(wishes(retrieval)), [A, B], threshold=threshold)
    assert found.text == ("x" if reads else "z")
    assert told(found)["retrieved"] is reads
    assert told(found)["retrieval_probability"] == pytest.approx(retrieval)


def test_the_frequency_of_retrieval_falls_with_the_threshold() -> None:
    chances = [0.05, 0.15, 0.3, 0.6, 0.9]
    counts = [
        sum(answer(ScriptedDecoder(wishes(one)), [A], threshold=threshold).text == "x" for one in chances)
        for threshold in (0.0, 0.1, 0.2, 0.5, 0.8, 0.95)
    ]
    assert counts == [5, 4, 3, 2, 1, 0]


def test_without_a_threshold_the_models_own_words_decide() -> None:
    found = answer(ScriptedDecoder(wishes(0.6)), [A, B], threshold=None)
    assert found.text == "x"
    plain = {"q ": "z", **WRITES}
    decoder = ScriptedDecoder(plain)
    found = answer(decoder, [A, B], threshold=None)
    assert (found.text, told(found)["retrieved"]) == ("z", False)
    # It is not written twice: prompt and one letter were read.
    assert decoder.tokens == len("q ") + 1


def test_the_modes_leave_nothing_to_the_model() -> None:
    assert answer(ScriptedDecoder(wishes(0.0001)), [A, B], "always_retrieve").text == "x"
    assert answer(ScriptedDecoder(wishes(0.9999)), [A, B], "no_retrieval").text == "z"


def test_the_best_score_wins_and_is_told() -> None:
    found = answer(ScriptedDecoder(wishes(1.0)), [B, A])
    [segment] = told(found)["segments"]
    assert (segment["text"], segment["passage"]) == ("x", 1)
    assert segment["tokens"] == ["[Relevant]", "[Fully supported]", "[Utility:3]"]
    assert segment["relevance"] == pytest.approx(0.9)
    assert segment["support"] == pytest.approx(0.65)
    assert segment["utility"] == pytest.approx(0.5)
    mean = (0.9 * 1.0 * 0.5 * 0.5) ** 0.25
    assert segment["total"] == pytest.approx(0.9 + 0.65 + 0.5 * 0.5 + mean, abs=1e-5)
    assert [one["text"] for one in told(found)["candidates"]] == ["y", "x"]
    assert told(found)["passages"] == [{"id": f"d-{one}", "title": "", "text": one} for one in ("bb", "aa")]


def test_switches_change_who_wins() -> None:
    rules: dict[str, Says] = {
        "aa</paragraph>": {"[Relevant]": 0.9, "[Irrelevant]": 0.1},
        "bb</paragraph>": {"[Relevant]": 0.6, "[Irrelevant]": 0.4},
        r"aa</paragraph>\[Relevant\]": "x",
        r"bb</paragraph>\[Relevant\]": "y",
        "x": {"[No support / Contradictory]": 1.0},
        "y": {"[Fully supported]": 1.0},
    }
    settings: dict[str, Any] = {"use_seqscore": False}
    assert answer(ScriptedDecoder(rules), [A, B], "always_retrieve", weights=settings).text == "y"
    settings |= {"use_groundness": False}
    assert answer(ScriptedDecoder(rules), [A, B], "always_retrieve", weights=settings).text == "x"


def test_votes_are_added_over_equal_answers() -> None:
    votes: dict[str, float] = {}
    assert voted(["a", "b", "b"], [1.0, 0.6, 0.7], votes) == 2
    assert votes == {"a": 1.0, "b": pytest.approx(1.3)}
    assert voted(["a", "b"], [1.0, 1.0], {}) == 0
    rules = dict(WRITES)
    three = [A, B, passage("cbb")]
    assert answer(ScriptedDecoder(rules), three, "always_retrieve").text == "x"
    found = answer(ScriptedDecoder(rules), three, "always_retrieve", vote=True, weights={"w_rel": 0.1})
    assert found.text == "y"
    assert set(told(found)["votes"]) == {"x", "y"}


def test_nothing_to_read_is_answered_without_and_noted() -> None:
    for mode in ("always_retrieve", "adaptive_retrieval"):
        found = answer(ScriptedDecoder(wishes(1.0)), [], mode)
        assert (found.text, told(found)["notes"], told(found)["retrieved"]) == ("z", ["nothing_found"], False)


def test_one_passage_is_enough_in_every_mode() -> None:
    for mode in ("always_retrieve", "adaptive_retrieval", "no_retrieval"):
        assert answer(ScriptedDecoder(wishes(1.0)), [A], mode).text in ("x", "z")


def test_no_more_than_ndocs_are_tried() -> None:
    found = answer(ScriptedDecoder(wishes(1.0)), [B, A], ndocs=1)
    assert (found.text, len(told(found)["candidates"])) == ("y", 1)


def test_a_prompt_is_computed_once_for_all_its_passages() -> None:
    decoder = ScriptedDecoder(wishes(1.0))
    answer(decoder, [A, B], prompt="a long question q ")
    read = 3 + len("aa")  # [Retrieval]<paragraph>aa</paragraph>
    written = 4  # [Relevant]x[Fully supported][Utility:5]
    assert decoder.tokens == len("a long question q ") + 2 * (read + written)


def test_questions_are_answered_side_by_side_as_each_is_alone() -> None:
    questions = [("q ", [A, B]), ("who q ", [B]), ("z", []), ("q ", [])]
    found = answers(ScriptedDecoder(wishes(0.6)), questions)
    alone = [answer(ScriptedDecoder(wishes(0.6)), mine, prompt=prompt) for prompt, mine in questions]
    assert [(one.text, one.details) for one in found] == [(one.text, one.details) for one in alone]


def test_long_passages_are_cut_to_what_fits_and_noted() -> None:
    long = passage("a" * 300)
    found = answer(ScriptedDecoder({"a</paragraph>": "[Relevant]", r"\[Relevant\]": "x"}), [long], "always_retrieve")
    assert (found.text, told(found)["notes"]) == ("x", ["passages_cut"])
    decoder = ScriptedDecoder({r"\[No Retrieval\]": "z"}, sequence_length=60)
    found = answer(decoder, [long], "always_retrieve", prompt="a" * 27)
    assert (found.text, told(found)["notes"]) == ("z", ["no_room"])
    with pytest.raises(ConfigError, match=r"decode\.max_new_tokens = 30: needs fewer than the 34 tokens"):
        answer(ScriptedDecoder({}, sequence_length=34), [A], "always_retrieve", prompt="q")


def test_a_passage_that_the_model_writes_itself_is_no_part_of_its_answer() -> None:
    own: dict[str, Says] = {r"\[Utility:[35]\]": "[Retrieval]", r"\[Utility:[35]\]\[Retrieval\]": "<paragraph>"}
    own |= {r"\]\[Retrieval\]<paragraph>": "b", r"\]\[Retrieval\]<paragraph>b": "</paragraph>"}
    rules = own | WRITES
    found = answer(ScriptedDecoder(rules), [A], "always_retrieve", max_new_tokens=8)
    assert found.text == "x"


def test_an_answer_that_would_end_at_once_is_judged_all_the_same() -> None:
    found = answer(ScriptedDecoder({"</paragraph>": {"#": 0.9, "[Relevant]": 0.06, "[Irrelevant]": 0.02}}), [A],
                   "always_retrieve")  # fmt: skip
    assert told(found)["segments"][0]["relevance"] == pytest.approx(0.75)
