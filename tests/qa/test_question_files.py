from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest

from retro.common.errors import DataError
from retro.qa.fields import Fields
from retro.qa.question import Context, Turn
from retro.qa.question_files import find_question_file, read_questions

GOOD = {"question": "Who?", "answers": ["Ada"]}


def write(tmp_path: Path, items: object, name: str = "set.json") -> Path:
    path = tmp_path / name
    path.write_text(json.dumps(items), encoding="utf-8")
    return path


def one(tmp_path: Path, **fields: Any) -> Any:
    return read_questions(write(tmp_path, [{"question": "Who?"} | fields]))[0]


def test_a_list_and_lines_read_alike(tmp_path: Path) -> None:
    items = [GOOD, {"question": "Where?", "answer": "Here\u2028there"}]
    lines = tmp_path / "set.jsonl"
    lines.write_text("\n".join(json.dumps(item, ensure_ascii=False) for item in items) + "\n\n", encoding="utf-8")
    assert read_questions(lines) == read_questions(write(tmp_path, items))
    assert [question.id for question in read_questions(lines)] == ["0", "1"]


@pytest.mark.parametrize(
    ("fields", "answers"),
    [
        ({"answers": ["Ada", "Lovelace"]}, ("Ada", "Lovelace")),
        ({"answers": [{"text": "Ada"}, {"text": " Countess "}]}, ("Ada", "Countess")),
        ({"answer": "Ada"}, ("Ada",)),
        ({"answers": "Ada"}, ("Ada",)),
        ({"answer": ["Ada", ""]}, ("Ada",)),
        ({"answer": 42}, ("42",)),
        ({"answer": True}, ("True",)),
        ({"longform_answer": "Ada did."}, ("Ada did.",)),
        ({"answers": None, "answer": "Ada"}, ("Ada",)),
        ({"answers": {"text": ["Ada", "Ada L."], "answer_start": [0, 4]}}, ("Ada", "Ada L.")),
    ],
)
def test_all_gold_answers_are_kept_and_a_text_is_one_answer(
    tmp_path: Path, fields: dict[str, Any], answers: tuple[str, ...]
) -> None:
    assert one(tmp_path, **fields).answers == answers


@pytest.mark.parametrize(
    ("fields", "contexts"),
    [
        ({"ctxs": [{"title": "T", "text": "body", "id": 7}]}, (Context("T", "body", "7"),)),
        ({"neighbours": ["first", "second"]}, (Context("", "first"), Context("", "second"))),
        ({"bert_pretrain_corpus_neighbours": ["first"]}, (Context("", "first"),)),
        ({"sub-paragraphs": "body"}, (Context("", "body"),)),
        ({"sub-paragraphs": ["T", "body"]}, (Context("T", "body"),)),
        ({"sub_paragraph": "news"}, (Context("", "news"),)),
        ({"sub-paragraphs": [["T", "body"], "other"]}, (Context("T", "body"), Context("", "other"))),
        ({"sub_paragraph": ["T", "news"]}, (Context("T", "news"),)),
        ({"context": [["T", ["One.", " Two."]]]}, (Context("T", "One. Two."),)),
        ({"context": {"title": ["T"], "sentences": [["One.", " Two."]]}}, (Context("T", "One. Two."),)),
        ({"ctxs": []}, ()),
        ({}, ()),
    ],
)
def test_contexts_are_read_from_every_known_field(
    tmp_path: Path, fields: dict[str, Any], contexts: tuple[Context, ...]
) -> None:
    assert one(tmp_path, answer="Ada", **fields).contexts == contexts


def test_passages_of_the_answers_chunks_are_lists_of_passages(tmp_path: Path) -> None:
    given = [["first", {"title": "T", "text": "second"}], []]
    found = ((Context("", "first"), Context("T", "second")), ())
    assert one(tmp_path, answer="Ada", chunk_ctxs=given).chunk_contexts == found
    assert one(tmp_path, answer="Ada", chunk_ctxs=[]).chunk_contexts == ()
    assert one(tmp_path, answer="Ada").chunk_contexts is None


def test_options_ids_and_documents_are_read(tmp_path: Path) -> None:
    question = one(
        tmp_path,
        answer="b",
        _id="q7",
        qa_type="multi_choice_qa",
        multichoice_options=["a", "b"],
        document_ids=["d", "d"],
    )
    assert (question.id, question.options, question.document_ids) == ("q7", ("a", "b"), ("d",))


def test_hotpotqa_names_its_documents_by_title(tmp_path: Path) -> None:
    question = one(tmp_path, answer="b", supporting_facts=[["Ada", 0], ["Ada", 1], ["Babbage", 0]])
    assert question.document_ids == ("Ada", "Babbage")


def test_columns_of_supporting_facts_name_the_same_documents(tmp_path: Path) -> None:
    facts = {"title": ["Ada", "Ada", "Babbage"], "sent_id": [0, 1, 0]}
    assert one(tmp_path, answer="b", supporting_facts=facts).document_ids == ("Ada", "Babbage")


def test_a_field_can_be_named_in_place_of_the_usual_one(tmp_path: Path) -> None:
    both = {"ctxs": ["found"], "sub-paragraphs": "given", "answers": ["short"], "longform_answer": "at length"}
    path = write(tmp_path, [{"question": "Who?"} | both])
    [usual] = read_questions(path)
    assert (usual.contexts, usual.answers) == ((Context("", "found"),), ("short",))
    [named] = read_questions(path, Fields(contexts="sub-paragraphs", answers="longform_answer"))
    assert (named.contexts, named.answers) == ((Context("", "given"),), ("at length",))
    with pytest.raises(DataError, match=r"item 0 has no 'gold'. Give it 'gold'"):
        read_questions(path, Fields(answers="gold"))


def test_what_was_said_before_is_read(tmp_path: Path) -> None:
    turns = [
        {"role": "system", "text": "Be kind."},
        {"role": "user", "text": " Hi "},
        {"role": "assistant", "text": ""},
    ]
    found = one(tmp_path, answer="b", turns=turns)
    assert found.turns == (Turn("system", "Be kind."), Turn("user", "Hi"), Turn("assistant", ""))


def test_a_question_marked_as_unanswerable_has_the_answer_that_says_so(tmp_path: Path) -> None:
    path = write(tmp_path, [GOOD, GOOD | {"answers": [], "is_impossible": True}])
    with pytest.raises(DataError, match=r"item 1 is marked as unanswerable .* such as squad2.0"):
        read_questions(path)
    questions = read_questions(path, Fields(no_answer="not there"))
    assert [(question.answers, question.unanswerable) for question in questions] == [
        (("Ada",), False),
        (("not there",), True),
    ]


def test_questions_without_an_answer_are_left_out_on_request_and_nothing_else_is(tmp_path: Path) -> None:
    told: list[tuple[str, str]] = []
    path = write(tmp_path, [GOOD, {"question": "Who?", "answers": [" "]}, {"question": "Who?"}, GOOD])
    questions = read_questions(path, on_bad=lambda reason, error: told.append((reason, str(error))))
    # What is left keeps the numbers of the file.
    assert [(question.id, question.place) for question in questions] == [("0", "item 0"), ("3", "item 3")]
    assert [reason for reason, _ in told] == ["no_answer", "no_answer"]
    assert "item 1 has 'answers' = [' ']" in told[0][1]
    assert "item 2 has no 'answers'" in told[1][1]
    with pytest.raises(DataError, match="item 0 has no 'question'"):
        read_questions(write(tmp_path, [{"answers": ["x"]}]), on_bad=lambda reason, error: None)


def test_half_a_character_is_named_where_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text(json.dumps(GOOD) + '\n{"question": "Who \\ud800?", "answers": ["Ada"]}\n')
    with pytest.raises(DataError, match=r"line 2 \(item 1\) holds half a character, '\\ud800'"):
        read_questions(path)


@pytest.mark.parametrize("content", ["[" * 5000 + "]" * 5000, '{"question": ' + "[" * 100_000])
def test_what_nests_too_deep_is_an_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "set.json"
    path.write_text(content)
    with pytest.raises(DataError, match="nests too deep to be read"):
        read_questions(path)


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ('[{"question": "Who?", "answer": "1"},\n {"answer": -DIGITS}]', "at line 2, column 14"),
        ('{"question": "Who?", "answer": "1"}\n{"answer": [DIGITS]}', r"line 2 \(item 1\) .* at column 13"),
        ("DIGITS", r"line 1 \(item 0\) .* at column 1"),
    ],
)
def test_a_number_of_thousands_of_digits_is_named_where_it_stands(tmp_path: Path, content: str, place: str) -> None:
    path = tmp_path / "set.json"
    path.write_text(content.replace("DIGITS", "7" * 5000))
    with pytest.raises(DataError, match="has a number of too many digits") as caught:
        read_questions(path)
    assert re.search(place, str(caught.value))
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN"])
def test_an_answer_is_no_endless_number(tmp_path: Path, number: str) -> None:
    path = tmp_path / "set.json"
    path.write_text('[{"question": "Who?", "answers": [' + number + "]}]")
    with pytest.raises(DataError, match=r"item 0 has -?(inf|nan) in 'answers'. An answer is a text, a number"):
        read_questions(path)


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        ({"answers": ["x"]}, "item 1 has no 'question'"),
        ({"question": "  ", "answers": ["x"]}, "item 1 has the question '  '"),
        ({"question": "Who?"}, "item 1 has no 'answers'"),
        ({"question": "Who?", "answers": []}, "item 1 has 'answers' = []"),
        ({"question": "Who?", "answers": ["", " "]}, "item 1 has 'answers' = ['', ' ']"),
        ({"question": "Who?", "answers": [["x"]]}, "item 1 has ['x'] in 'answers'"),
        ({"question": "Who?", "answer": "x", "ctxs": 7}, "item 1 has a int in 'ctxs'"),
        ({"question": "Who?", "answer": "x", "ctxs": [{"title": "T"}]}, "item 1 has \"{'title': 'T'}\" in 'ctxs'"),
        ({"question": "Who?", "answer": "x", "qa_type": "multi_choice_qa"}, "multichoice_options = None"),
        ({"question": "Who?", "answer": "x", "document_ids": "d"}, "item 1 has document_ids = 'd'"),
        ({"question": "Who?", "answer": "x", "chunk_ctxs": ["p"]}, "item 1 has \"['p']\" in 'chunk_ctxs'"),
        ({"question": "Who?", "answer": "x", "chunk_ctxs": [[3]]}, "item 1 has '3' in 'chunk_ctxs'"),
        ({"question": "Who?", "answer": "x", "turns": "hi"}, "item 1 has turns = 'hi'"),
        (
            {"question": "Who?", "answer": "x", "turns": [{"role": "bot", "text": ""}]},
            "item 1 has the turn \"{'role': ",
        ),
        ({"question": "Who?", "answer": "x", "turns": [{"role": "user"}]}, "item 1 has the turn \"{'role': 'user'}\""),
        (
            {"question": "Who?", "answer": "x", "context": {"title": [], "sentences": [["One."]]}},
            "item 1 has titles and sentences of unlike number in 'context'",
        ),
        ("Who?", "item 1 is a str"),
    ],
)
def test_a_bad_item_is_named_by_file_and_number(tmp_path: Path, item: object, problem: str) -> None:
    path = write(tmp_path, [GOOD, item])
    with pytest.raises(DataError) as caught:
        read_questions(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert problem in str(caught.value)


def test_broken_json_is_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text(json.dumps(GOOD) + '\n{"question": "Who?",\n')
    with pytest.raises(DataError, match=r"set.jsonl: line 2 \(item 1\) is broken JSON at column \d+"):
        read_questions(path)
    path.write_text('[{"question": "Who?", "answers": ["x"]},\n {"question" "x"}]')
    with pytest.raises(DataError, match="broken JSON at line 2, column 14"):
        read_questions(path)


def test_two_questions_cannot_share_an_id(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="item 1 has the id 'a' of item 0"):
        read_questions(write(tmp_path, [GOOD | {"id": "a"}, GOOD | {"id": "a"}]))


@pytest.mark.parametrize("text", ["", "[]", "\n\n"])
def test_a_file_without_questions_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "set.json"
    path.write_text(text)
    with pytest.raises(DataError, match="holds no question"):
        read_questions(path)


def test_a_missing_or_unreadable_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such question file"):
        read_questions(tmp_path / "none.json")
    (tmp_path / "latin.json").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DataError, match="cannot be read"):
        read_questions(tmp_path / "latin.json")


def test_a_named_set_is_found_in_its_folder_and_a_typo_is_answered(tmp_path: Path) -> None:
    folder = tmp_path / "squad"
    folder.mkdir()
    path = write(folder, [GOOD], "squad_QA_train.json")
    assert find_question_file(tmp_path, "squad", "train") == path
    with pytest.raises(DataError, match="Did you mean 'squad'"):
        find_question_file(tmp_path, "sqaud", "train")
    with pytest.raises(DataError, match=r"Did you mean 'squad_QA_train\.json'"):
        find_question_file(tmp_path, "squad", "dev")
    with pytest.raises(DataError, match="holds no question set"):
        find_question_file(tmp_path / "nowhere", "squad", "dev")


def test_short_fields_are_labels(tmp_path: Path) -> None:
    found = one(tmp_path, answer="Ada", type="bridge", level=3, yes=True, text="x" * 65, none=None, share=0.5, empty="")
    assert found.labels == (("level", "3"), ("type", "bridge"), ("yes", "True"))
    assert one(tmp_path, answer="Ada", type="bridge", labels={"hops": 2}).labels == (("hops", "2"),)
    with pytest.raises(DataError, match="item 0 has labels = 'x'"):
        one(tmp_path, answer="Ada", labels="x")


def test_answers_may_come_in_groups(tmp_path: Path) -> None:
    assert one(tmp_path, answer="a, b", answer_groups=[["a", "b"], ["c"]]).answer_groups == (("a", "b"), ("c",))
    wrongs: list[object] = ["ab", ["a"], [[]]]
    for wrong in wrongs:
        with pytest.raises(DataError, match="item 0 has answer_groups = "):
            one(tmp_path, answer="Ada", answer_groups=wrong)


def test_fields_that_nothing_is_read_from_are_named_with_a_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    items = [
        {"question": "a?", "answers": ["x"], "system": "Be brief.", "history": ["b"], "level": "easy", "score": 0.5},
        {"question": "c?", "answers": ["x"], "history": ["d"], "ctxs": [], "level": "hard", "turns": []},
    ]
    (tmp_path / "q.json").write_text(json.dumps(items))
    with caplog.at_level(logging.INFO):
        read_questions(tmp_path / "q.json")
    (line,) = caplog.messages
    assert line.endswith("have them: history (2), system (1), score (1)")
