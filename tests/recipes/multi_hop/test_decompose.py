"""Decomposition with a model that says what is written down: the way to an answer, and all that can go wrong."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from retro.common.errors import ConfigError, DataError
from retro.qa.question import Context
from retro.qa.segments import split_at_tokens
from retro.recipes.multi_hop.conversation import TOKENS
from retro.recipes.multi_hop.decompose import decompose, one_search
from retro.recipes.multi_hop.dialogs import Chat, DialogTexts, FunctionCalls, answer_of
from retro.recipes.multi_hop.protocol import Event, Found, Outcome, Reply, run, stream
from tests.recipes.multi_hop.scripted import Scripted, Shelf, call, outcome_of, question

TEXTS = DialogTexts.load(None)
CALLS = FunctionCalls(TEXTS, 40)
SHELF = {"bridge?": "From 1873.", "tower?": "From 1902."}
END = " It is from 1902.\nAnswer:1902\nSummary:1873 is before 1902.\nAnswer:the bridge<|eot|>"


def answered(
    *says: str | Reply, shelf: Mapping[str, str | Found] | None = None, hops: int = 4
) -> tuple[Outcome, Scripted]:
    model = Scripted(*says)
    outcome = outcome_of(decompose(question(), CALLS, hops), model, Shelf(SHELF if shelf is None else shelf))
    return outcome, model


def test_each_sub_question_is_looked_up_and_answered_before_the_next() -> None:
    outcome, model = answered(call("bridge?"), call("tower?", "It is from 1873."), END)
    assert (outcome.answer, outcome.failed, outcome.notes) == ("the bridge", "", ())
    assert [(hop.query, hop.answer) for hop in outcome.hops] == [
        ("bridge?", "It is from 1873."),
        ("tower?", "It is from 1902.\nAnswer:1902"),
    ]
    assert outcome.text == END.removesuffix("<|eot|>").strip()
    # The last prompt holds all of it, and ends where the assistant begins.
    assert model.asked[2] == (
        f"system: {TEXTS.system}<|eot|>\nuser: Which is older?<|eot|>\n"
        'assistant:<|bof|>retrieve:\n{"query": "bridge?"}<|eof|><|eot|>\nretrieved context: From 1873.<|eot|>\n'
        'assistant: It is from 1873.\n<|bof|>retrieve:\n{"query": "tower?"}<|eof|><|eot|>\n'
        "retrieved context: From 1902.<|eot|>\nassistant:"
    )


def test_an_answer_at_once_needs_no_search() -> None:
    outcome, _ = answered(" In 1873.<|eot|>")
    assert (outcome.answer, outcome.hops, outcome.notes) == ("In 1873.", (), ())


def test_after_the_last_hop_a_summary_is_begun_for_the_model() -> None:
    outcome, model = answered(
        call("bridge?"), call("tower?", "It is from 1873."), "Nobody knows.\nAnswer:unknown<|eot|>", hops=1
    )
    assert outcome.notes == ("hop_limit",)
    assert model.asked[2].endswith("assistant: It is from 1873.\nSummary:")
    assert outcome.text == "It is from 1873.\nSummary: Nobody knows.\nAnswer:unknown"
    assert (outcome.answer, len(outcome.hops)) == ("unknown", 1)


def test_a_query_that_was_made_already_is_not_made_again() -> None:
    outcome, model = answered(call("bridge?"), call("Bridge", "It is from 1873."), " So.\nAnswer:1873<|eot|>")
    assert outcome.notes == ("repeated_query",)
    assert outcome.answer == "1873"
    assert len(model.asked) == 3


def test_a_call_in_the_summary_ends_the_answer() -> None:
    outcome, _ = answered(call("bridge?"), call("bridge?", "From 1873."), call("tower?", "More.\nAnswer:1873"))
    assert outcome.notes == ("repeated_query", "call_in_summary")
    assert outcome.answer == "1873"


def test_a_first_call_that_cannot_be_followed_looks_the_question_up() -> None:
    shelf = {"Which is older?": "The bridge is older."}
    outcome, _ = answered('<|bof|>retrieve:\n{"query": <|eof|>', " Answer:the bridge<|eot|>", shelf=shelf)
    assert outcome.notes[0].startswith("malformed_call: arguments that are broken JSON")
    assert [hop.query for hop in outcome.hops] == ["Which is older?"]
    assert outcome.answer == "the bridge"


@pytest.mark.parametrize(
    ("says", "note"),
    [
        ("<|bof|>look:\n{}<|eof|>", "malformed_call: a call of 'look', and there is 'retrieve' alone"),
        ('It is 1873. <|bof|>retrieve:\n{"query": "tower?"}', "malformed_call: a call that does not end"),
    ],
)
def test_a_later_call_that_cannot_be_followed_asks_for_the_summary(says: str, note: str) -> None:
    outcome, model = answered(call("bridge?"), says, " so.\nAnswer:1873<|eot|>")
    assert outcome.notes == (note,)
    assert model.asked[2].endswith("Summary:")
    assert outcome.answer == "1873"


def test_a_search_that_finds_nothing_is_told_to_the_model_and_noted() -> None:
    outcome, model = answered(call("bridge?"), " It cannot be answered.\nAnswer:unknown<|eot|>", shelf={})
    assert "retrieved context: Nothing was found.<|eot|>" in model.asked[1]
    assert outcome.notes == ("nothing_found", "unanswerable_sub_question")
    assert outcome.answer == "unknown"


def test_words_of_the_summary_say_nothing_of_the_sub_question() -> None:
    text = " It is from 1873.\nAnswer:1873\nSummary: Its height is not stated.\nAnswer:1873<|eot|>"
    outcome, _ = answered(call("bridge?"), text)
    assert (outcome.answer, outcome.notes) == ("1873", ())


def test_a_search_that_fails_is_told_with_its_reason() -> None:
    outcome, _ = answered(
        call("bridge?"), " Answer:unknown<|eot|>", shelf={"bridge?": Found(problem="timed out", refused=True)}
    )
    assert outcome.notes == ("search_failed: timed out",)
    assert outcome.answer == "unknown"


def test_a_sub_question_without_an_answer_does_not_end_the_rest() -> None:
    shelf = SHELF | {"bridge?": "A bridge."}
    outcome, _ = answered(call("bridge?"), call("tower?", "The text does not mention it."), END, shelf=shelf)
    assert outcome.notes == ("unanswerable_sub_question",)
    assert len(outcome.hops) == 2
    assert outcome.answer == "the bridge"


def test_contexts_are_cut_until_the_conversation_fits() -> None:
    long = "word " * 100

    def rule(text: str) -> str | Reply:
        if len(text) > 600:
            return Reply(excess=len(text) - 600)
        return END if "retrieved context" in text else call("bridge?")

    model = Scripted(rule=rule)
    dialog = FunctionCalls(DialogTexts.load(None).model_copy(update={"system": "s"}), 40)
    outcome = outcome_of(decompose(question(), dialog, 4), model, Shelf({"bridge?": long}))
    assert outcome.notes == ("context_cut",)
    assert outcome.answer == "the bridge"
    assert len(model.asked[-1]) <= 600
    # What was found is recorded whole.
    assert outcome.hops[0].passages[0].text == long


def test_a_question_that_does_not_fit_has_no_answer_and_says_so() -> None:
    outcome, _ = answered(call("bridge?"), *[Reply(excess=7)] * 3)
    assert outcome.failed == "no_room: question and conversation are 7 tokens too long for the model"
    assert (outcome.answer, outcome.notes) == ("", ("context_cut",))


def test_a_reply_that_does_not_come_fails_one_question_and_no_other() -> None:
    def rule(text: str) -> str | Reply:
        return Reply(problem="refused") if "user: bad" in text else " Answer:yes<|eot|>"

    programs = [decompose(question(text), CALLS, 4) for text in ("good", "bad", "also good")]
    outcomes = run(programs, Scripted(rule=rule), Shelf({}))
    assert [(one.answer, one.failed) for one in outcomes] == [("yes", ""), ("", "model: refused"), ("yes", "")]


def test_a_reply_that_was_cut_is_noted_and_nothing_said_is_a_failure() -> None:
    outcome, _ = answered(Reply(segments=split_at_tokens(" In 18", TOKENS), cut=True))
    assert (outcome.answer, outcome.notes) == ("In 18", ("reply_cut",))
    outcome, _ = answered("<|eot|>")
    assert outcome.failed == "no_answer: the model said nothing that is one"


def test_several_hops_without_an_answer_line_are_noted() -> None:
    outcome, _ = answered(call("bridge?"), call("tower?"), " the bridge is.<|eot|>")
    assert (outcome.answer, outcome.notes) == ("the bridge is.", ("no_answer_line",))


def test_questions_share_batches() -> None:
    def rule(text: str) -> str:
        return END if "retrieved context" in text else call("bridge?")

    model = Scripted(rule=rule)
    outcomes = run([decompose(question(f"q{n}"), CALLS, 4) for n in range(3)], model, Shelf(SHELF))
    assert [one.answer for one in outcomes] == ["the bridge"] * 3
    assert model.batches == [3, 3]


def test_steps_are_told_while_they_are_made() -> None:
    events = stream(decompose(question(), CALLS, 4), Scripted(call("bridge?"), END), Shelf({}))
    first = next(events)
    # Nothing of what follows was asked yet.
    assert (first.kind, first.text) == ("search", "bridge?")
    rest = list(events)
    assert [one.kind for one in rest] == ["note", "found", "said", "answer"]
    assert rest[-1].outcome is not None
    assert rest[-1].record()["multi_hop"]["hops"][0]["query"] == "bridge?"
    assert Event(kind="found", passages=(Context("t", "x"),)).record()["passages"] == [{"title": "t", "text": "x"}]


def test_one_search_is_with_the_whole_question() -> None:
    shelf = Shelf({"Which is older?": "Both are old."})
    outcome = outcome_of(one_search(question(), CALLS), Scripted(" the bridge<|eot|>"), shelf)
    assert shelf.searched == ["Which is older?"]
    assert (outcome.answer, outcome.notes) == ("the bridge", ())
    outcome = outcome_of(one_search(question(), CALLS), Scripted(call("bridge?"), " no.\nAnswer:unknown"), shelf)
    assert (outcome.answer, outcome.notes, len(outcome.hops)) == ("unknown", ("hop_limit",), 1)
    outcome = outcome_of(one_search(question(), CALLS), Scripted(Reply(problem="down")), shelf)
    assert outcome.failed == "model: down"
    outcome = outcome_of(one_search(question(), CALLS), Scripted(call("x"), Reply(problem="down")), shelf)
    assert outcome.failed == "model: down"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Summary: a\nAnswer:the bridge", "the bridge"),
        ("Answer:1873\nSummary:b\nAnswer: the bridge \nand more", "the bridge"),
        ("no mark", "no mark"),
        ("**answer:** the *old* bridge**", "the *old* bridge"),
        ("Answer:", ""),
    ],
)
def test_the_answer_is_what_follows_the_last_mark(text: str, answer: str) -> None:
    assert answer_of(text) == answer


# In words, for models that were not tuned.


def chatted(*says: str, hops: int = 4, examples: int = 1) -> tuple[Outcome, Scripted]:
    model = Scripted(*says)
    dialog = Chat(TEXTS, 40, examples)
    return outcome_of(decompose(question(), dialog, hops), model, Shelf(SHELF)), model


def test_a_chat_searches_in_words() -> None:
    outcome, model = chatted(
        "Search: bridge?\nPassages: made up",
        "Finding: It is from 1873.\n**Search:** tower?",
        "Finding: It is from 1902.\nSummary: 1873 is first.\nAnswer: the bridge",
    )
    assert (outcome.answer, outcome.notes) == ("the bridge", ())
    assert [(hop.query, hop.answer) for hop in outcome.hops] == [
        ("bridge?", "Finding: It is from 1873."),
        ("tower?", "Finding: It is from 1902."),
    ]
    assert model.asked[2].endswith(
        "user: Which is older?\nassistant: Search: bridge?\nuser: Passages: From 1873.\n"
        "assistant: Finding: It is from 1873.\nSearch: tower?\nuser: Passages: From 1902."
    )


def test_examples_are_shown_as_many_as_are_wanted() -> None:
    _, with_one = chatted("Answer: x")
    _, without = chatted("Answer: x", examples=0)
    assert "Harwick" in with_one.asked[0]
    assert "Harwick" not in without.asked[0]
    with pytest.raises(ConfigError, match="examples = 9: needs at most 1"):
        Chat(TEXTS, 40, 9)


def test_a_chat_is_closed_with_a_turn_of_its_own() -> None:
    outcome, model = chatted("Search: bridge?", "Finding: 1873.\nSearch: bridge?", "Summary: s\nAnswer: 1873")
    assert outcome.notes == ("repeated_query",)
    assert model.asked[2].endswith(f"assistant: Finding: 1873.\nuser: {TEXTS.chat_close}")
    outcome, model = chatted("Search: bridge?", "Search: bridge?", "Answer: 1873")
    assert model.asked[2].endswith(f"user: Passages: From 1873.\n\n{TEXTS.chat_close}")


def test_a_chat_in_another_form_is_malformed() -> None:
    outcome, _ = chatted("I think so.", "Answer: x")
    assert outcome.notes == ("malformed_call: neither a search nor an answer", "nothing_found")
    outcome, _ = chatted("Search:\n", "Answer: x")
    assert outcome.notes[0] == "malformed_call: a search for nothing"


def test_texts_of_ones_own_are_laid_over_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "texts.yaml"
    path.write_text(yaml.safe_dump({"name": "mine", "version": 2, "system": "look {things} up"}))
    found = DialogTexts.load(path)
    assert (found.system, found.nothing_found, found.identity["name"]) == (
        "look {things} up",
        "Nothing was found.",
        "mine",
    )
    path.write_text(yaml.safe_dump({"name": "mine", "version": 2, "route": "which?"}))
    with pytest.raises(DataError, match=r"texts.yaml: route = 'which\?': needs the place \{question\} in it"):
        DialogTexts.load(path)
    path.write_text(yaml.safe_dump({"system": "x"}))
    with pytest.raises(DataError, match="has no 'name'"):
        DialogTexts.load(path)
