from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from retro.common.errors import ConfigError, DataError
from retro.generate.task_prompt import few_shot_examples, rule_of_task, task_identity, task_prompt
from retro.qa.prompt_texts import SetTexts, shipped_prompts
from retro.qa.prompts import build_prompt
from retro.qa.question import Context, Question, Turn
from retro.qa.task import Example, FewShot, Task, all_tasks, load_task

ASKED = Question(id="0", question="Where?", answers=("Rome",))
PASSAGES = (Context("T", "Rome is."),)


def shots(**few: Any) -> Task:
    return load_task("qa").model_copy(update={"few_shot": FewShot(**few)})


def prompt(task: Task, style: Any = "plain", contexts: int = 1) -> Any:
    examples = few_shot_examples(task)
    return task_prompt(ASKED, PASSAGES, task, style=style, contexts_in_prompt=contexts, examples=examples)


@pytest.mark.parametrize("style", ["plain", "instructretro"])
def test_without_examples_it_is_the_plain_prompt(style: Any) -> None:
    alone = build_prompt(ASKED, PASSAGES, style=style, kind="short_span", contexts_in_prompt=1)
    assert prompt(load_task("qa"), style) == alone


def test_examples_stand_before_the_passages() -> None:
    few = shots(count=1, contexts=1, examples=[Example(question="Who?", answer="Ada", contexts=("Ada was.",))] * 2)
    assert prompt(few).text == "Ada was.\nquestion: Who?\nanswer: Ada\nT: Rome is.\nquestion: Where?\nanswer:"


def test_the_preamble_stands_once_and_only_passages_can_be_cut() -> None:
    few = shots(count=2, examples=[Example(question=f"Who {n}?", answer=f"Ada {n}") for n in range(2)])
    found = prompt(few, "instructretro")
    assert found.text.count("System:") == 1
    assert found.text.count("The answer is Ada") == 2
    assert found.head.endswith("The answer is Ada 1\n\n")
    assert found.contexts == ("title: T, source: Rome is.\n\n",)
    assert found.tail.endswith("Where?\n\nAssistant: The answer is")


def test_with_a_template_the_examples_stand_before_the_users_turn() -> None:
    few = shots(count=1, contexts=1, examples=[Example(question="Who?", answer="Ada", contexts=("Ada was.",))])
    ways: dict[str, Any] = {"style": "instructretro", "contexts_in_prompt": 1, "template": "reply"}
    asked = task_prompt(ASKED, PASSAGES, few, examples=few_shot_examples(few), **ways)
    preamble, *rest = asked.text.split("\n\n")
    assert preamble.startswith("System: ")
    assert rest == [
        "User: source: Ada was.",
        "Reply to this: Who?",
        "Assistant: The answer is Ada",
        "User: title: T, source: Rome is.",
        "Reply to this: Where?",
        "Assistant: The answer is",
    ]
    assert asked.contexts == ("title: T, source: Rome is.\n\n",)


def test_a_task_is_asked_as_the_set_of_its_name_is_tuned() -> None:
    texts = shipped_prompts()
    assert rule_of_task(load_task("drop"), texts) == texts.rule_of_set("drop") != texts.rule_of_kind("short_span")
    otherwise = load_task("drop").model_copy(update={"kind": "full_answer"})
    assert rule_of_task(otherwise, texts) == texts.rule_of_kind("full_answer")
    own = texts.model_copy(update={"sets": {"drop": SetTexts(kind="short_span", instruction="In digits:")}})
    ways: dict[str, Any] = {"style": "instructretro", "contexts_in_prompt": 0, "texts": own}
    assert "User: In digits: Where?" in task_prompt(ASKED, (), load_task("drop"), examples=[], **ways).tail


def test_what_is_learned_as_no_answer_is_one_to_the_task_of_that_name() -> None:
    texts = shipped_prompts()
    told = {task.name: task.no_answer for task in all_tasks() if task.no_answer}
    assert set(told) >= {"squad2.0", "quac"}
    for name, answers in told.items():
        assert texts.rule_of_set(name).texts.no_answer in answers


def test_examples_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "shots.json"
    path.write_text('[{"question": "A?", "answers": ["x", "y"]}, {"question": "B?", "answer": "z"}]')
    assert prompt(shots(count=2, file=path)).head == "question: A?\nanswer: x\nquestion: B?\nanswer: z\n"
    with pytest.raises(DataError, match=r"shots.json: holds 2 examples, task 'qa' shows 3"):
        few_shot_examples(shots(count=3, file=path))


def test_an_example_has_an_answer_to_show(tmp_path: Path) -> None:
    path = tmp_path / "shots.json"
    path.write_text('[{"input": "Tell me about Ada."}]')
    task = load_task("factscore").model_copy(update={"few_shot": FewShot(count=1, file=path)})
    with pytest.raises(DataError, match=r"shots.json: item 0 has no answer. Give every example the answer"):
        few_shot_examples(task)


def test_a_talk_with_a_system_turn_keeps_it_whole_after_the_examples() -> None:
    few = shots(count=1, examples=[Example(question="Who?", answer="Ada")])
    talk = Question(id="0", question="Where?", answers=("Rome",), turns=(Turn("system", "Be brief."),))
    examples = few_shot_examples(few)
    found = task_prompt(talk, (), few, style="instructretro", contexts_in_prompt=0, examples=examples)
    assert found.text.startswith("User: ")
    assert found.text.index("The answer is Ada") < found.text.index("Be brief.") < found.text.index("Where?")


def test_a_task_may_have_an_instruction_and_a_template_of_its_own() -> None:
    own = load_task("qa").model_copy(update={"instruction": "In one word:"})
    assert "User: In one word: Where?" in prompt(own, "instructretro").tail
    silent = load_task("qa").model_copy(update={"instruction": ""})
    assert "User: Where?" in prompt(silent, "instructretro").tail
    framed = load_task("qa").model_copy(update={"template": "reply"})
    assert "Reply to this: Where?" in prompt(framed, "instructretro").text
    with pytest.raises(ConfigError, match=r"qa.template = 'replay': is not a template; did you mean 'reply'"):
        prompt(load_task("qa").model_copy(update={"template": "replay"}))


def test_a_tasks_identity_is_all_that_shapes_answers(tmp_path: Path) -> None:
    path = tmp_path / "shots.json"
    path.write_text('[{"question": "A?", "answers": ["x"]}]')
    few = shots(count=1, file=path)
    before = task_identity(few)
    assert task_identity(few.model_copy(update={"description": "other"})) == before
    assert task_identity(few.model_copy(update={"stop": (".",)})) != before
    path.write_text('[{"question": "A?", "answers": ["y"]}]')
    assert task_identity(few) != before
