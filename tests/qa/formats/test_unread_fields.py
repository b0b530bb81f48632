from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from retro.common.errors import DataError
from retro.qa.formats.convert import Conversion, convert_file
from retro.qa.formats.item import Options
from retro.qa.formats.registry import FORMATS, find_format
from retro.qa.formats.write import ConversionOptions, run
from retro.qa.question import Question, Turn
from tests.qa.formats import samples

TALK = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]
ITEMS: dict[str, dict[str, Any]] = {
    "alpaca": {"instruction": "Add.", "input": "2 and 3", "output": "5"},
    "dolly": {"instruction": "When?", "context": "In 2000 it was.", "response": "In 2000."},
    "sharegpt": {"conversations": TALK},
    "chat": {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]},
    "oasst": {
        "message_tree_id": "t",
        "prompt": {
            "message_id": "t",
            "role": "prompter",
            "text": "Hi",
            "replies": [{"message_id": "u", "role": "assistant", "text": "Hello.", "replies": []}],
        },
    },
    "squad": {"question": "Who?", "context": "Ada did.", "answers": {"text": ["Ada"]}},
    "nq_open": {"question": "Who?", "answer": ["Ada"]},
    "triviaqa": {"Question": "Who?", "Answer": {"Value": "Ada"}},
    "hotpotqa": {"question": "Who?", "answer": "Ada", "context": [["A", ["Ada did."]]], "supporting_facts": []},
    "boolq": {"question": "Did she?", "passage": "She did.", "answer": True},
    "conflictqa": samples.CONFLICTQA[0],
    "nq_swap": samples.NQ_SWAP[0],
    "faitheval_unanswerable": samples.FAITHEVAL_UNANSWERABLE[0],
    "faitheval_inconsistent": samples.FAITHEVAL_INCONSISTENT[0],
    "faitheval_counterfactual": samples.FAITHEVAL_COUNTERFACTUAL[0],
}
BEFORE = (Turn("system", "Be brief."), Turn("user", "q"), Turn("assistant", "a"))


def converted(tmp_path: Path, name: str, *items: dict[str, Any], **options: Any) -> Conversion:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return convert_file(path, find_format(name), Options(**options), skip_bad=False)


def only(made: Conversion) -> Question:
    [question] = made.questions
    return question


def test_every_format_has_an_item_here() -> None:
    assert set(ITEMS) == set(FORMATS)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "history",
    [
        [["q", "a"]],
        [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
        [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}],
    ],
)
def test_a_system_prompt_and_a_history_become_turns(tmp_path: Path, name: str, history: object) -> None:
    plain = only(converted(tmp_path, name, ITEMS[name]))
    made = converted(tmp_path, name, ITEMS[name] | {"system": " Be brief.", "history": history})
    assert only(made).turns == (*BEFORE, *plain.turns)
    assert (only(made).question, only(made).answers) == (plain.question, plain.answers)
    assert "system" not in made.ignored
    assert "history" not in made.ignored


@pytest.mark.parametrize("name", FORMATS)
def test_what_no_converter_looks_at_is_named_with_a_count(tmp_path: Path, name: str) -> None:
    assert converted(tmp_path, name, ITEMS[name]).ignored == {}
    other = ITEMS[name] | {"rating": 5, "tools": [{"name": "search"}], "note": "", "more": []}
    names = ("id", "message_tree_id", "QuestionId", "qid")
    first, second = (other | dict.fromkeys(names, f"n{n}") for n in (1, 2))
    if name == "oasst":
        [reply] = ITEMS[name]["prompt"]["replies"]
        second["prompt"] = ITEMS[name]["prompt"] | {"message_id": "t2", "replies": [reply | {"message_id": "u2"}]}
    made = converted(tmp_path, name, first, second | {"tools": None})
    assert {key: count for key, count in made.ignored.items() if key not in names} == {"rating": 2, "tools": 1}


def test_fields_of_a_turn_count_too(tmp_path: Path) -> None:
    call = {"role": "assistant", "content": "Hello.", "tool_calls": [{"name": "f"}], "weight": 0}
    made = converted(tmp_path, "chat", {"messages": [{"role": "user", "content": "Hi", "name": "Bo"}, call]})
    assert made.ignored == {"messages[].name": 1, "messages[].tool_calls": 1, "messages[].weight": 1}


def test_the_command_names_what_it_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "in.json").write_text(json.dumps([ITEMS["alpaca"] | {"category": "sums"}]))
    with caplog.at_level(logging.WARNING):
        made = run(ConversionOptions(name="alpaca", path=tmp_path / "in.json", out=tmp_path / "out.json"))
    assert made["ignored_fields"] == {"category": 1}
    assert "in.json: fields that alpaca does not look at, with how often they are there: category (1)" in caplog.text


def test_two_system_prompts_are_one_where_they_are_equal_and_an_error_where_not(tmp_path: Path) -> None:
    item = {"conversations": [{"from": "system", "value": "Be brief."}, *TALK]}
    assert only(converted(tmp_path, "sharegpt", item | {"system": "Be brief."})).turns == (BEFORE[0],)
    with pytest.raises(DataError, match=r"has the system prompts 'Be long\.' and 'Be brief\.'"):
        converted(tmp_path, "sharegpt", item | {"system": "Be long."})


def test_each_question_of_a_conversation_has_the_turns_before_it(tmp_path: Path) -> None:
    item = {"id": "c", "conversations": [*TALK, *TALK], "system_prompt": "Be brief."}
    first, second = converted(tmp_path, "sharegpt", item, turns="every").questions
    assert first.turns == (BEFORE[0],)
    assert second.turns == (BEFORE[0], Turn("user", "Hi"), Turn("assistant", "Hello."))


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("system", ["x"], "has a list in 'system', needs a text"),
        ("history", "before", "has a str in 'history', needs a list of turns"),
        ("history", [["q"]], r"has \"\['q'\]\" in 'history', needs \[question, answer\] or a turn"),
        ("history", [{"role": "user", "content": "q"}], "has a 'history' in which the last turn is not answered"),
        ("history", [{"role": "gpt", "content": "q"}], "has turn 0 of 'history' by the assistant; the user's was due"),
        ("history", [{"role": "moon", "content": "q"}], "in 'history', needs"),
    ],
)
def test_another_layout_of_what_came_before_is_an_error(
    tmp_path: Path, field: str, value: object, problem: str
) -> None:
    with pytest.raises(DataError, match=problem):
        converted(tmp_path, "alpaca", ITEMS["alpaca"] | {field: value})
