from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from retro.common.errors import ConfigError, DataError
from retro.qa.fields import Fields
from retro.qa.formats.convert import Conversion, convert_file
from retro.qa.formats.item import Options
from retro.qa.formats.registry import FORMATS, find_format
from retro.qa.formats.write import write_questions
from retro.qa.layouts import read_task_questions
from retro.qa.question import Context, Question, Turn
from retro.qa.question_files import read_questions
from retro.qa.task import load_task
from tests.qa.formats import samples


def as_list(tmp_path: Path, items: object) -> Path:
    path = tmp_path / "in.json"
    path.write_text(json.dumps(items, ensure_ascii=False), encoding="utf-8")
    return path


def as_lines(tmp_path: Path, items: list[Any]) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(json.dumps(item, ensure_ascii=False) for item in items), encoding="utf-8")
    return path


def converted(path: Path, name: str, *, skip_bad: bool = False, **options: Any) -> Conversion:
    return convert_file(path, find_format(name), Options(**options), skip_bad=skip_bad)


def questions(path: Path, name: str, **options: Any) -> list[Question]:
    return converted(path, name, **options).questions


NEW_YORK = Context("New York", "New York has five boroughs.", "New York")


def test_alpaca_has_its_input_below_the_instruction(tmp_path: Path) -> None:
    assert questions(as_list(tmp_path, samples.ALPACA), "alpaca") == [
        Question(id="0", question="Name a colour.", answers=("Red.",)),
        Question(id="1", question="Add the numbers.\n\n2 and 3", answers=("5",)),
    ]


def test_dolly_has_its_context_in_the_question_or_as_a_passage(tmp_path: Path) -> None:
    path = as_lines(tmp_path, samples.DOLLY)
    assert [one.question for one in questions(path, "dolly")] == [
        "When did the airline begin?\n\nThe airline began in 2000.",
        "Which is a fish?",
    ]
    first, second = questions(path, "dolly", passages=True)
    assert first.question == "When did the airline begin?"
    assert first.contexts == (Context("", "The airline began in 2000.", "passage"),)
    assert first.document_ids == ("passage",)
    assert second.contexts == ()


def test_sharegpt_learns_the_last_reply_given_all_before(tmp_path: Path) -> None:
    assert questions(as_list(tmp_path, samples.SHAREGPT), "sharegpt") == [
        Question(
            id="aB3x_0",
            question="Who wrote it?",
            answers=("Ada.",),
            turns=(Turn("user", "Hi"), Turn("assistant", "Hello.")),
        )
    ]


def test_sharegpt_learns_every_reply_on_request(tmp_path: Path) -> None:
    made = converted(as_list(tmp_path, samples.SHAREGPT), "sharegpt", turns="every")
    assert [(one.id, one.question, one.answers, len(one.turns)) for one in made.questions] == [
        ("aB3x_0/1", "Hi", ("Hello.",), 0),
        ("aB3x_0/3", "Who wrote it?", ("Ada.",), 2),
    ]
    assert made.groups == ["aB3x_0", "aB3x_0"]


def test_chat_messages_keep_their_system_turn_and_join_their_parts(tmp_path: Path) -> None:
    assert questions(as_lines(tmp_path, samples.CHAT), "chat") == [
        Question(
            id="f0e37e9f7800261167ce91143f98f511",
            question="Hi",
            answers=("Hello.\nWell?",),
            turns=(Turn("system", "Be kind."),),
        )
    ]


def test_oasst_follows_the_best_ranked_replies(tmp_path: Path) -> None:
    assert questions(as_lines(tmp_path, samples.OASST), "oasst") == [
        Question(
            id="last",
            question="An example?",
            answers=("A mill town.",),
            turns=(Turn("user", "What is a monopsony?"), Turn("assistant", "One buyer.")),
        )
    ]


def test_oasst_can_take_every_conversation_every_reply_and_one_language(tmp_path: Path) -> None:
    path = as_lines(tmp_path, samples.OASST)
    assert [one.id for one in questions(path, "oasst", paths="all")] == ["last", "second"]
    # The best reply is on the way to the last one: learned once, though two conversations hold it.
    assert [one.id for one in questions(path, "oasst", paths="all", turns="every")] == ["best", "last", "second"]
    german = json.loads(json.dumps(samples.OASST[0]).replace('"lang": "en"', '"lang": "de"'))
    both = as_lines(tmp_path, [samples.OASST[0], german | {"message_tree_id": "other"}])
    made = converted(both, "oasst", language="en")
    assert (len(made.questions), made.counts()["skipped"]) == (1, {"not_asked_for": 1})


@pytest.mark.parametrize("indent", [None, 1])
def test_squad_brings_its_paragraph_and_what_has_no_answer(tmp_path: Path, indent: int | None) -> None:
    path = tmp_path / "train-v2.0.json"
    path.write_text(json.dumps(samples.SQUAD, indent=indent))
    made = converted(path, "squad")
    assert made.questions == [
        Question(
            id="56be",
            question="How many boroughs?",
            answers=("five",),
            contexts=(NEW_YORK,),
            document_ids=("New York",),
        ),
        Question(id="5ad3", question="How many rivers?", answers=(), contexts=(NEW_YORK,), unanswerable=True),
    ]
    assert made.counts()["unanswerable"] == 1


@pytest.mark.parametrize("write", [as_list, as_lines])
def test_squad_in_rows_gives_the_same_questions(tmp_path: Path, write: Any) -> None:
    whole = questions(as_list(tmp_path, samples.SQUAD), "squad")
    assert questions(write(tmp_path, samples.SQUAD_ROWS), "squad") == whole
    assert questions(as_lines(tmp_path, samples.SQUAD_ROWS[:1]), "squad") == whole[:1]


def test_nq_open_has_all_its_answers(tmp_path: Path) -> None:
    assert questions(as_lines(tmp_path, samples.NQ_OPEN), "NQ-open") == [
        Question(id="0", question="who wrote it", answers=("Ada", "Ada Lovelace"))
    ]


def test_triviaqa_has_its_value_first_and_then_its_aliases(tmp_path: Path) -> None:
    assert questions(as_list(tmp_path, samples.TRIVIAQA), "triviaqa") == [
        Question(id="tc_1", question="Who was born first?", answers=("Ada", "Ada Lovelace", "Countess of Lovelace"))
    ]


def columns(item: dict[str, Any]) -> dict[str, Any]:
    titles, sentences = zip(*item["context"], strict=True)
    names, numbers = zip(*item["supporting_facts"], strict=True)
    context = {"title": list(titles), "sentences": list(sentences)}
    return item | {"context": context, "supporting_facts": {"title": list(names), "sent_id": list(numbers)}}


@pytest.mark.parametrize("item", [samples.HOTPOTQA[0], columns(samples.HOTPOTQA[0])])
def test_hotpotqa_marks_the_paragraphs_that_support_the_answer(tmp_path: Path, item: dict[str, Any]) -> None:
    assert questions(as_list(tmp_path, [item]), "hotpotqa") == [
        Question(
            id="5a7a",
            question="Who designed the engine of her notes?",
            answers=("Babbage",),
            contexts=(
                Context("Ada", "Ada wrote notes. On an engine.", "Ada"),
                Context("Sea", "It is wide.", "Sea"),
                Context("Engine", "It computes. Babbage designed it.", "Engine"),
            ),
            document_ids=("Ada", "Engine"),
        )
    ]


def test_conflictqa_has_the_passages_of_both_sides(tmp_path: Path) -> None:
    entity, sentence = questions(as_lines(tmp_path, samples.CONFLICTQA), "conflictqa")
    assert (entity.answers, sentence.answers) == (("mathematician", "scientist"), ("True",))
    assert [one.text for one in entity.contexts] == [
        "Ada was a poet of her time.",
        "Poems by Ada are known.",
        "Ada worked as a mathematician.",
        "Ada wrote notes on an engine.",
    ]
    # Only one passage has a right answer; none has the word True.
    assert (entity.document_ids, sentence.document_ids) == (("passage #3",), ())


def test_nq_swap_keeps_the_answer_before_it_was_replaced(tmp_path: Path) -> None:
    [question] = questions(as_lines(tmp_path, samples.NQ_SWAP), "nq_swap")
    assert (question.answers, question.document_ids) == (("Ada Lovelace", "Lovelace"), ("passage",))


def test_the_subsets_of_faitheval(tmp_path: Path) -> None:
    [first, second] = questions(as_lines(tmp_path, samples.FAITHEVAL_UNANSWERABLE), "faitheval_unanswerable")
    assert (first.id, first.unanswerable, first.answers) == ("u1", True, ())
    assert (second.id, second.unanswerable) == ("u2", True)
    [both] = questions(as_lines(tmp_path, samples.FAITHEVAL_INCONSISTENT), "faitheval_inconsistent")
    assert (both.answers, both.document_ids) == (("Ada", "Mary"), ("passage",))
    [choice] = questions(as_lines(tmp_path, samples.FAITHEVAL_COUNTERFACTUAL), "faitheval_counterfactual")
    assert (choice.answers, choice.options) == (("marshmallows",), ("rock", "marshmallows"))


def test_boolq_is_answered_with_true_or_false(tmp_path: Path) -> None:
    first, second = questions(as_lines(tmp_path, samples.BOOLQ), "boolq")
    assert (first.answers, second.answers) == (("True",), ("False",))
    assert first.contexts == second.contexts == (Context("Sea", "It is wide.", "Sea"),)


ALL: dict[str, Any] = {
    "alpaca": samples.ALPACA,
    "dolly": samples.DOLLY,
    "sharegpt": samples.SHAREGPT,
    "oasst": samples.OASST,
    "chat": samples.CHAT,
    "squad": samples.SQUAD,
    "nq_open": samples.NQ_OPEN,
    "triviaqa": samples.TRIVIAQA,
    "hotpotqa": samples.HOTPOTQA,
    "boolq": samples.BOOLQ,
    "conflictqa": samples.CONFLICTQA,
    "nq_swap": samples.NQ_SWAP,
    "faitheval_unanswerable": samples.FAITHEVAL_UNANSWERABLE,
    "faitheval_inconsistent": samples.FAITHEVAL_INCONSISTENT,
    "faitheval_counterfactual": samples.FAITHEVAL_COUNTERFACTUAL,
}


def test_every_format_has_a_sample_here() -> None:
    assert set(ALL) == set(FORMATS)


@pytest.mark.parametrize("name", sorted(ALL))
@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_what_is_written_is_read_again_as_it_was(tmp_path: Path, name: str, suffix: str) -> None:
    made = questions(as_list(tmp_path, ALL[name]), name)
    path = tmp_path / f"out.{suffix}"
    write_questions(path, made)
    again = read_questions(path, Fields(no_answer="none"))
    # What marks a question as unanswerable or as one with options is a label of the file too.
    kept = [Question(**(vars(one) | {"labels": ()})) for one in again]
    assert [one if not one.unanswerable else Question(**(vars(one) | {"answers": ()})) for one in kept] == made


BAD: list[tuple[str, Any, str, str]] = [
    ("alpaca", {"input": "", "output": "x"}, "no_question", "has no 'instruction'"),
    ("alpaca", {"instruction": "Do.", "output": "  "}, "no_answer", "has a blank 'output'"),
    ("alpaca", {"instruction": "Do.", "output": 3}, "wrong_type", "has a int in 'output', needs a text"),
    ("alpaca", {"instruction": "Do.", "input": [], "output": "x"}, "wrong_type", "has a list in 'input'"),
    ("dolly", {"instruction": "Do.", "context": ""}, "no_answer", "has no 'response'"),
    ("sharegpt", {"id": "a", "conversations": []}, "no_conversation", "has '[]' in 'conversations'"),
    ("sharegpt", {"conversations": ["Hi"]}, "wrong_type", "has the turn 'Hi', needs an object"),
    (
        "sharegpt",
        {"conversations": [{"from": "gpt", "value": "Hello."}]},
        "turns_do_not_alternate",
        "has turn 0 of the assistant; the user's was due",
    ),
    (
        "sharegpt",
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "human", "value": "Hi"}]},
        "turns_do_not_alternate",
        "has turn 1 of the user; the assistant's was due",
    ),
    ("sharegpt", {"conversations": [{"from": "human", "value": "Hi"}]}, "no_answer", "has no turn of the assistant"),
    ("sharegpt", {"conversations": [{"from": "alien", "value": "Hi"}]}, "unknown_role", "has a turn of 'alien'"),
    ("sharegpt", {"conversations": [{"from": "human", "value": ""}]}, "no_text_in_a_turn", "has a blank 'value'"),
    (
        "chat",
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "not_text",
        "has a turn with",
    ),
    ("oasst", {"prompt": "Hi"}, "no_conversation", "has 'Hi' in 'prompt'"),
    ("oasst", {"prompt": samples.message("a", "prompter", "Hi", None) | {"deleted": True}}, "deleted", "was deleted"),
    ("oasst", {"prompt": samples.message("a", "prompter", "Hi", None) | {"replies": {}}}, "no_answer", "has no turn"),
    (
        "oasst",
        {"prompt": samples.message("a", "prompter", "Hi", None) | {"replies": {"b": 1}}},
        "wrong_type",
        "has a dict in 'replies'",
    ),
    (
        "oasst",
        {
            "prompt": samples.message(
                "a", "prompter", "Hi", None, samples.message("b", "assistant", "Ho", 0) | {"message_id": None}
            )
        },
        "no_id",
        "has a message with message_id = 'None', needs a text",
    ),
    ("squad", {"id": "a", "question": "Who?", "context": "c"}, "no_answer", "has no 'answers'"),
    ("squad", {"question": "Who?", "answers": [], "context": "c", "is_impossible": False}, "no_answer", "not marked"),
    ("squad", {"question": "Who?", "answers": "x", "context": "c"}, "wrong_type", "has 'x' in 'answers'"),
    ("squad", {"question": "Who?", "answers": [{"text": "x"}]}, "no_passage", "has no 'context'"),
    ("nq_open", {"question": "who"}, "no_answer", "has no 'answer'"),
    ("nq_open", {"question": "who", "answer": [""]}, "no_answer", "has 'answer' = ['']"),
    ("nq_open", {"question": "who", "answer": [1]}, "wrong_type", "has '[1]' in 'answer', needs a list of texts"),
    ("triviaqa", {"Question": "Who?"}, "no_answer", "has no 'Answer'; the test part of TriviaQA is without"),
    ("hotpotqa", {"question": "Who?", "answer": "x"}, "no_passages", "has 'None' in 'context'"),
    ("hotpotqa", {"question": "Who?", "answer": "x", "context": [["T", "s"]]}, "wrong_type", "in 'context'"),
    (
        "hotpotqa",
        {"question": "Who?", "answer": "x", "context": {"title": ["T"], "sentences": []}},
        "wrong_type",
        "has columns of unlike length in 'context'",
    ),
    ("boolq", {"question": "is it", "passage": "p"}, "no_answer", "has no 'answer'"),
    ("boolq", {"question": "is it", "passage": "p", "answer": "yes"}, "wrong_type", "needs true or false"),
    ("conflictqa", samples.CONFLICTQA[0] | {"counter_memory": ""}, "no_passage", "has a blank 'counter_memory'"),
    ("conflictqa", samples.CONFLICTQA[0] | {"ground_truth": []}, "no_answer", "has 'ground_truth' = []"),
    ("conflictqa", samples.CONFLICTQA[0] | {"memory_answer": 3}, "wrong_type", "has a int in 'memory_answer'"),
    ("nq_swap", samples.NQ_SWAP[0] | {"sub_answer": None}, "no_answer", "has no 'sub_answer'"),
    ("faitheval_unanswerable", {"qid": "u3", "question": "Who?"}, "no_passage", "has no 'context'"),
    (
        "faitheval_inconsistent",
        samples.FAITHEVAL_INCONSISTENT[0] | {"qid": "i2", "answers": ["Ada"]},
        "one_answer",
        "has the single answer 'Ada' in 'answers', needs those of both sides",
    ),
    (
        "faitheval_counterfactual",
        samples.FAITHEVAL_COUNTERFACTUAL[0] | {"id": "c2", "choices": {"label": ["A"], "text": []}},
        "no_options",
        "needs the lists label and text",
    ),
    (
        "faitheval_counterfactual",
        samples.FAITHEVAL_COUNTERFACTUAL[0] | {"id": "c2", "answerKey": "E"},
        "unknown_option",
        "has the answerKey 'E', needs one of A, B",
    ),
]


@pytest.mark.parametrize(("name", "item", "reason", "problem"), BAD)
def test_a_bad_item_is_named_by_its_line_or_counted_by_its_reason(
    tmp_path: Path, name: str, item: dict[str, Any], reason: str, problem: str
) -> None:
    good = {**ALL, "squad": samples.SQUAD_ROWS, "triviaqa": samples.TRIVIAQA["Data"]}[name]
    path = as_lines(tmp_path, [good[0], item])
    with pytest.raises(DataError) as caught:
        converted(path, name)
    assert str(caught.value).startswith(f"{path}: line 2 (item 1) ")
    assert problem in str(caught.value)
    made = converted(path, name, skip_bad=True)
    assert (len(made.questions), made.counts()["skipped"], made.items) == (1, {reason: 1}, 2)


def test_a_number_of_thousands_of_digits_is_named_or_counted(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text('{"question": "who", "answer": ' + "7" * 5000 + '}\n{"question": "who", "answer": ["x"]}\n')
    with pytest.raises(DataError, match=r"has a number of too many digits at line 1, column 31"):
        converted(path, "squad")
    made = converted(path, "nq_open", skip_bad=True)
    assert (len(made.questions), made.counts()["skipped"]) == (1, {"broken_json": 1})


@pytest.mark.parametrize(
    ("change", "place", "problem"),
    [
        (lambda data: data["data"].append("x"), "data[1]", "is a str"),
        (
            lambda data: data["data"][0].update(paragraphs=None),
            "data[0].paragraphs",
            "is null, needs to be a list",
        ),
        (lambda data: data["data"][0]["paragraphs"][1].pop("qas"), "data[0].paragraphs[1].qas", "is missing, needs"),
        (lambda data: data["data"][0]["paragraphs"].append(7), "data[0].paragraphs[2]", "is a int"),
        (lambda data: data["data"][0]["paragraphs"][0]["qas"].append([]), "data[0].paragraphs[0].qas[2]", "is a list"),
        (
            lambda data: data["data"][0]["paragraphs"][0]["qas"][0].pop("question"),
            "data[0].paragraphs[0].qas[0]",
            "has no 'question'",
        ),
    ],
)
def test_a_bad_place_inside_a_squad_file_is_named(tmp_path: Path, change: Any, place: str, problem: str) -> None:
    data = json.loads(json.dumps(samples.SQUAD))
    change(data)
    path = as_list(tmp_path, data)
    with pytest.raises(DataError) as caught:
        converted(path, "squad")
    assert str(caught.value).startswith(f"{path}: {place} {problem}")


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda data: data["data"].append("x"), "data[1] is a str, needs to be an object"),
        (lambda data: data["data"].append({"title": "A"}), "data[1].paragraphs is missing, needs to be a list"),
        (lambda data: data["data"][0]["paragraphs"][0]["qas"].append([]), "data[0].paragraphs[0].qas[2] is a list"),
    ],
)
def test_a_bad_place_is_named_where_the_file_is_evaluated_too(tmp_path: Path, change: Any, place: str) -> None:
    data = json.loads(json.dumps(samples.SQUAD))
    change(data)
    path = as_list(tmp_path, data)
    with pytest.raises(DataError) as caught:
        read_task_questions(path, load_task("squad2.0"))
    assert str(caught.value).startswith(f"{path}: {place}")


def test_bad_places_inside_a_squad_file_are_counted(tmp_path: Path) -> None:
    data = json.loads(json.dumps(samples.SQUAD))
    data["data"] += ["x", {"title": "A"}]
    data["data"][0]["paragraphs"][0]["qas"].append([])
    good = converted(as_list(tmp_path, samples.SQUAD), "squad")
    made = converted(as_list(tmp_path, data), "squad", skip_bad=True)
    assert (made.items, made.questions) == (good.items + 3, good.questions)
    assert made.counts()["skipped"] == {"wrong_type": 3}


def test_two_items_of_one_id_are_refused(tmp_path: Path) -> None:
    path = as_lines(tmp_path, [samples.SHAREGPT[0], samples.SHAREGPT[0]])
    with pytest.raises(DataError, match=r"line 2 \(item 1\) has the id 'aB3x_0' of line 1 \(item 0\)"):
        converted(path, "sharegpt")
    assert converted(path, "sharegpt", skip_bad=True).counts()["skipped"] == {"id_twice": 1}


def test_broken_lines_are_named_or_counted(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps(samples.NQ_OPEN[0]) + '\n{"question": \n[1]\n')
    with pytest.raises(DataError, match=r"in.jsonl: line 2 \(item 1\) is broken JSON"):
        converted(path, "nq_open")
    made = converted(path, "nq_open", skip_bad=True)
    assert made.counts()["skipped"] == {"broken_json": 1, "not_an_object": 1}
    assert made.items == 3


@pytest.mark.parametrize("content", ["", "[]", '{"data": []}'])
def test_a_file_without_a_question_is_an_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "in.json"
    path.write_text(content)
    with pytest.raises(DataError, match="has no question that could be used, of 0 items"):
        converted(path, "squad")


def test_a_squad_file_that_breaks_off_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "in.json"
    path.write_text(json.dumps(samples.SQUAD, indent=1)[:-20])
    with pytest.raises(DataError, match=r"broken JSON at line \d+, column"):
        converted(path, "squad")
    with pytest.raises(DataError, match="no such file to convert"):
        converted(tmp_path / "absent.json", "squad")


def test_an_unknown_format_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="FORMAT = 'trivia_qa': is not a known format; did you mean 'triviaqa'"):
        find_format("trivia_qa")
