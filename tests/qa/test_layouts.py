"""Each data set's own form, in a piece made up for the test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from retro.common.errors import DataError
from retro.qa.layouts import read_task_questions
from retro.qa.metrics.words import accuracy
from retro.qa.prompt_texts import shipped_prompts
from retro.qa.prompts import lettered_options
from retro.qa.question import Context, Question, Turn
from retro.qa.task import load_task


def read(tmp_path: Path, task: str, data: Any, name: str = "set.json") -> list[Question]:
    path = tmp_path / name
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return read_task_questions(path, load_task(task))


def squad(**question: Any) -> dict[str, Any]:
    asked = {"id": "a1", "question": "Who?", "answers": [{"text": "Ada", "answer_start": 0}, {"text": "Ada"}]}
    return {
        "version": "x",
        "data": [{"title": "T", "paragraphs": [{"context": "Ada was.", "qas": [asked | question]}]}],
    }


@pytest.mark.parametrize("task", ["squad1.1", "squad2.0"])
def test_squad(tmp_path: Path, task: str) -> None:
    (one,) = read(tmp_path, task, squad())
    assert (one.id, one.question, one.answers) == ("a1", "Who?", ("Ada", "Ada"))
    assert (one.contexts, one.document_ids) == ((Context("T", "Ada was."),), ("T",))
    flat = {"id": "a1", "title": "T", "context": "Ada was.", "question": "Who?", "answers": {"text": ["Ada", "Ada"]}}
    assert read(tmp_path, task, json.dumps(flat) + "\n" + json.dumps(flat | {"id": "2"}), "hf.jsonl")[0] == one


def test_squad_without_an_answer(tmp_path: Path) -> None:
    # The plausible answers of the file are not gold answers.
    data = squad(answers=[], is_impossible=True, plausible_answers=[{"text": "Bob"}])
    (one,) = read(tmp_path, "squad2.0", data)
    assert (one.answers, one.labels, one.unanswerable) == (("unanswerable",), (("unanswerable", "True"),), True)
    with pytest.raises(DataError, match=r"set.json: data\[0\].paragraphs\[0\].qas\[0\] has 'answers' = \[\]"):
        read(tmp_path, "squad1.1", data)


def test_a_file_in_instructretros_form_needs_no_layout(tmp_path: Path) -> None:
    for task in ("squad1.1", "drop", "asqa", "race", "qrecc", "quac", "nq"):
        (one,) = read(tmp_path, task, [{"question": "Who?", "answers": ["Ada"], "ctxs": [{"title": "T", "text": "x"}]}])
        assert (one.answers, one.contexts) == (("Ada",), (Context("T", "x"),))


def test_triviaqa(tmp_path: Path) -> None:
    answer = {"Value": "Ada", "Aliases": ["Countess", "Ada"], "NormalizedAliases": ["countess"]}
    asked = {"Question": "Who?", "QuestionId": "t1", "Answer": answer, "EntityPages": [{"Title": "A"}, {"Title": "B"}]}
    (one,) = read(tmp_path, "tqa", {"Data": [asked], "Version": 1})
    assert (one.id, one.answers, one.document_ids) == ("t1", ("Ada", "Countess"), ("A", "B"))
    hf = {"question": "Who?", "question_id": "t1", "answer": {"value": "Ada", "aliases": ["Countess"]}}
    assert read(tmp_path, "tqa", [hf])[0].answers == ("Ada", "Countess")


def test_popqa_is_a_table(tmp_path: Path) -> None:
    rows = 'id\tprop\tquestion\tpossible_answers\n7\tcapital\tWhere?\t"[""Rome"", ""Roma""]"\n'
    (one,) = read(tmp_path, "popqa", rows, "test.tsv")
    assert (one.id, one.answers, one.labels) == ("7", ("Rome", "Roma"), (("property", "capital"),))
    with pytest.raises(DataError, match=r"row 1 has the answers '\[Rome', which are not JSON"):
        read(tmp_path, "popqa", rows.replace('"[""Rome"", ""Roma""]"', "[Rome"), "test.tsv")
    with pytest.raises(DataError, match=r"has no layout of task 'nq'. Its columns need to be no table"):
        read(tmp_path, "nq", rows, "test.tsv")


def test_newsqa_as_mrqa_has_it(tmp_path: Path) -> None:
    lines = [
        {"header": {"dataset": "NewsQA"}},
        {"context": "News.", "qas": [{"qid": "n", "question": "Who?", "answers": ["x"]}]},
    ]
    (one,) = read(tmp_path, "newsqa", "\n".join(map(json.dumps, lines)), "NewsQA.jsonl")
    assert (one.id, one.answers, one.contexts) == ("n", ("x",), (Context("", "News."),))


def test_spans_of_quoref_are_one_answer(tmp_path: Path) -> None:
    (one,) = read(tmp_path, "quoref", squad(answers=[{"text": "Ada"}, {"text": "Bob"}]))
    assert (one.answers, one.answer_groups) == (("Ada, Bob",), (("Ada", "Bob"),))


def test_narrativeqa(tmp_path: Path) -> None:
    summary = {"document": {"id": "d", "kind": "movie", "summary": {"text": "S.", "title": "M"}}}
    asked = {"question": {"text": "Who?"}, "answers": [{"text": "Ada"}, {"text": "Ada L."}]}
    (one,) = read(tmp_path, "narrativeqa", [summary | asked])
    assert (one.answers, one.contexts, one.labels) == (("Ada", "Ada L."), (Context("M", "S."),), (("kind", "movie"),))


def test_answers_of_drop_are_numbers_spans_and_dates(tmp_path: Path) -> None:
    def answer(number: str = "", spans: tuple[str, ...] = (), **date: str) -> dict[str, Any]:
        return {"number": number, "spans": list(spans), "date": {"day": "", "month": "", "year": ""} | date}

    pairs = [
        {"question": "How many?", "query_id": "d1", "answer": answer("3"), "validated_answers": [answer("4")]},
        {"question": "Who?", "query_id": "d2", "answer": answer(spans=("Ada", "Bob"))},
        {"question": "When?", "query_id": "d3", "answer": answer(month="May", year="1990")},
        {"question": "What?", "query_id": "d4", "answer": answer()},
    ]
    one, two, three = read(tmp_path, "drop", {"nfl_1": {"passage": "P.", "qa_pairs": pairs}})
    assert (one.id, one.answer_groups, one.answers) == ("d1", (("3",), ("4",)), ("3", "4"))
    assert (two.answer_groups, two.answers, two.contexts) == ((("Ada", "Bob"),), ("Ada, Bob",), (Context("", "P."),))
    assert three.answers == ("May 1990",)
    with pytest.raises(DataError, match=r"\['nfl_1'\]\.qa_pairs\[0\] has the answer 'x'"):
        read(tmp_path, "drop", {"nfl_1": {"passage": "P.", "qa_pairs": [{"question": "?", "answer": "x"}]}})


def test_ropes_has_two_contexts(tmp_path: Path) -> None:
    data = squad()
    data["data"][0]["paragraphs"][0] |= {"background": "B.", "situation": "S."}
    assert read(tmp_path, "ropes", data)[0].contexts == (Context("", "B."), Context("", "S."))


def test_boolq(tmp_path: Path) -> None:
    one, two = read(
        tmp_path,
        "boolq",
        "".join(
            json.dumps({"question": "is it", "title": "T", "answer": a, "passage": "P."}) + "\n" for a in (True, False)
        ),
        "dev.jsonl",
    )
    assert (one.answers, two.answers, one.contexts) == (("True",), ("False",), (Context("T", "P."),))


def test_letters_of_race_become_options(tmp_path: Path) -> None:
    asked = {"example_id": "r", "article": "A.", "question": "Which _ ?", "options": ["red", "blue"], "answer": "B"}
    (one,) = read(tmp_path, "race", [asked])
    assert (one.answers, one.options, one.contexts) == (("blue",), ("red", "blue"), (Context("", "A."),))
    assert read(tmp_path, "race", [asked | {"answer": "red"}])[0].answers == ("red",)
    with pytest.raises(DataError, match="item 0 has the answer 'C' to 2 options"):
        read(tmp_path, "race", [asked | {"answer": "C"}])


@pytest.mark.parametrize("task", ["hotpotqa", "2wiki"])
def test_hotpotqa_reads_alike_in_both_forms(tmp_path: Path, task: str) -> None:
    asked = {"question": "Who?", "answer": "Ada", "type": "bridge", "level": "hard"}
    raw = {"_id": "h", "context": [["T", ["A.", " B."]], ["U", ["C."]]], "supporting_facts": [["T", 0], ["T", 1]]}
    hf = {
        "id": "h",
        "context": {"title": ["T", "U"], "sentences": [["A.", " B."], ["C."]]},
        "supporting_facts": {"title": ["T", "T"], "sent_id": [0, 1]},
    }
    (one,), (two,) = (read(tmp_path, task, [asked | form]) for form in (raw, hf))
    assert (one.contexts, one.document_ids) == ((Context("T", "A. B."), Context("U", "C.")), ("T",))
    assert one.labels == (("level", "hard"), ("type", "bridge"))
    assert two == one


def test_asqa_keeps_what_each_meaning_wants(tmp_path: Path) -> None:
    pairs = [{"question": "a?", "short_answers": ["one", "1"]}, {"question": "b?", "short_answers": ["two"]}]
    asked = {"ambiguous_question": "Who?", "qa_pairs": pairs, "annotations": [{"long_answer": "One and two."}]}
    for data in ({"dev": {"-7": asked}}, [asked | {"sample_id": "-7"}]):
        (one,) = read(tmp_path, "asqa", data)
        assert (one.id, one.answers) == ("-7", ("One and two.",))
        assert one.answer_groups == (("one", "1"), ("two",))


@pytest.mark.parametrize("name", ["short_answers", "answers"])
def test_asqa_without_long_answers_has_the_short_ones(tmp_path: Path, name: str) -> None:
    pairs = [{"question": "a?", name: ["one", "1"]}, {"question": "b?", name: ["two"]}]
    asked = {"question": "Who?", "qa_pairs": pairs, "ctxs": [{"id": "1", "title": "T", "text": "x", "score": "9.5"}]}
    (one,) = read(tmp_path, "asqa", [asked])
    assert one.answers == ("one", "1", "two")
    assert one.answer_groups == (("one", "1"), ("two",))
    assert one.contexts == (Context("T", "x", "1", 9.5),)


def test_turns_of_quac_follow_each_other(tmp_path: Path) -> None:
    data = squad(orig_answer={"text": "Ada."})
    data["data"][0]["paragraphs"][0]["qas"].append(
        {
            "id": "a2",
            "question": "When?",
            "answers": [{"text": "CANNOTANSWER"}],
            "orig_answer": {"text": "CANNOTANSWER"},
        }
    )
    one, two = read(tmp_path, "quac", data)
    assert (one.question, one.turns, two.question) == ("Who?", (), "When?")
    assert (two.turns, two.answers) == ((Turn("user", "Who?"), Turn("assistant", "Ada.")), ("CANNOTANSWER",))


def test_turns_of_qrecc_stand_in_its_context(tmp_path: Path) -> None:
    asked = {"Question": "When?", "Context": ["Who?", "Ada."], "Answer": "1815", "Conversation_source": "trec"}
    (one,) = read(tmp_path, "qrecc", [asked, asked | {"Answer": ""}])
    assert (one.question, one.answers) == ("When?", ("1815",))
    assert one.turns == (Turn("user", "Who?"), Turn("assistant", "Ada."))
    assert one.labels == (("source", "trec"),)


def test_doc2dial(tmp_path: Path) -> None:
    asked = {"id": "x_1", "title": "T#1", "context": "D.", "question": "user: hi", "answers": {"text": ["yes."]}}
    (one,) = read(tmp_path, "doc2dial", [asked | {"domain": "dmv"}])
    assert (one.answers, one.contexts, one.labels) == (("yes.",), (Context("T#1", "D."),), (("domain", "dmv"),))


def test_a_question_that_is_no_text_is_named(tmp_path: Path) -> None:
    data = squad()
    data["data"][0]["paragraphs"][0]["qas"].append({"id": "b", "question": 7, "answers": [{"text": "x"}]})
    with pytest.raises(DataError, match=r"qas\[1\] has 7 at 'question'"):
        read(tmp_path, "squad1.1", data)


def test_two_questions_of_one_id_are_an_error(tmp_path: Path) -> None:
    data = squad()
    data["data"] *= 2
    with pytest.raises(DataError, match=r"data\[1\].paragraphs\[0\].qas\[0\] has the id 'a1' of data\[0\]"):
        read(tmp_path, "squad1.1", data)


def test_a_broken_file_is_told_by_its_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 1 \(item 0\) is broken JSON"):
        read(tmp_path, "squad1.1", '{"data": [')


def test_half_a_character_is_an_error_in_any_form(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"qas\[0\] holds half a character"):
        read(tmp_path, "squad1.1", json.dumps(squad(question="Who \ud83d?")))


def lines(*items: dict[str, Any]) -> str:
    return "".join(json.dumps(item) + "\n" for item in items)


def arc(labels: str, key: str, texts: tuple[str, ...] = ("air", "ice", "sea", "sun", "sky")) -> dict[str, Any]:
    choices = {"label": list(labels), "text": list(texts[: len(labels)])}
    return {"id": f"{labels}_{key}", "question": "Which?", "choices": choices, "answerKey": key}


@pytest.mark.parametrize(
    ("labels", "key", "gold"),
    [
        ("ABCD", "D", "sun"),
        ("ABCDE", "E", "sky"),
        ("ABC", "C", "sea"),
        ("1234", "4", "sun"),
        ("12345", "5", "sky"),
        # The answer may count in the other way than the options are labelled.
        ("1234", "B", "ice"),
        ("ABCD", "2", "ice"),
        ("ABCD", "a", "air"),
        # A label is looked for before a place.
        ("DCBA", "D", "air"),
    ],
)
def test_an_answer_of_arc_names_one_of_its_options(tmp_path: Path, labels: str, key: str, gold: str) -> None:
    (one,) = read(tmp_path, "arc_c", lines(arc(labels, key)), "arc_challenge_processed.jsonl")
    assert one.answers == (gold,)
    assert one.options == ("air", "ice", "sea", "sun", "sky")[: len(labels)]


def test_options_of_arc_are_asked_with_letters_and_an_answer_by_letter_is_that_option(tmp_path: Path) -> None:
    (one,) = read(tmp_path, "arc_c", lines(arc("12345", "5")), "arc.jsonl")
    assert (
        lettered_options(one.options, shipped_prompts().styles["plain"]) == "\n(A) air (B) ice (C) sea (D) sun (E) sky"
    )
    said = {text: accuracy(text, one.answers, one.options) for text in ("E", "(E) sky", "the sky", "A", "5", "")}
    assert said == {"E": 1.0, "(E) sky": 1.0, "the sky": 1.0, "A": 0.0, "5": 0.0, "": 0.0}


def test_a_label_of_arc_is_meant_where_an_option_has_the_same_text(tmp_path: Path) -> None:
    (one,) = read(tmp_path, "arc_c", lines(arc("1234", "2", ("2", "4", "1", "3"))), "arc.jsonl")
    assert one.answers == ("4",)


def test_a_blank_option_of_arc_moves_no_label(tmp_path: Path) -> None:
    (one,) = read(tmp_path, "arc_c", lines(arc("ABCD", "C", ("air", "", "sea", "sun"))), "arc.jsonl")
    assert (one.options, one.answers) == (("air", "sea", "sun"), ("sea",))


def test_arc_as_its_authors_have_it(tmp_path: Path) -> None:
    choices = [{"text": "air", "label": "A"}, {"text": "ice", "label": "B"}]
    (one,) = read(
        tmp_path, "arc_c", lines({"id": "M1", "question": {"stem": "Which?", "choices": choices}, "answerKey": "B"})
    )
    assert (one.id, one.question, one.options, one.answers) == ("M1", "Which?", ("air", "ice"), ("ice",))


def test_what_is_wrong_with_options_of_arc_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="item 1 has the answer 'F' to 4 options"):
        read(tmp_path, "arc_c", [arc("ABCD", "A"), arc("ABCD", "F")])
    short = arc("ABCD", "A")
    short["choices"]["label"] = ["A"]
    with pytest.raises(DataError, match=r"item 0 has 4 options at 'choices.text' and 1 labels"):
        read(tmp_path, "arc_c", [short])


PASSAGES = [
    {"id": "7", "title": "T", "text": "x", "score": "1.23"},
    {"id": 8, "title": None, "text": "y", "score": 2},
    {"text": "z"},
]
KEPT = (Context("T", "x", "7", 1.23), Context("", "y", "8", 2.0), Context("", "z"))


@pytest.mark.parametrize(
    ("task", "asked", "golds"),
    [
        ("popqa", {"question": "Where?", "possible_answers": '["Rome", "Roma"]', "ctxs": PASSAGES}, ("Rome", "Roma")),
        ("popqa", {"question": "Where?", "possible_answers": ["Rome"], "top_contexts": PASSAGES}, ("Rome",)),
        ("popqa", {"question": "Where?", "answers": ["Rome"], "ctxs": PASSAGES}, ("Rome",)),
        ("tqa", {"question": "Where?", "answers": ["Rome", "Roma"], "ctxs": PASSAGES}, ("Rome", "Roma")),
        ("arc_c", arc("ABCD", "B") | {"ctxs": PASSAGES}, ("ice",)),
        ("pubhealth", {"claim": "Tea cures.", "label": "REFUTES", "ctxs": PASSAGES}, ("false",)),
        ("factscore", {"input": "Who is Ada?", "ctxs": PASSAGES}, ()),
        ("asqa", {"question": "Who?", "annotations": [{"long_answer": "Ada."}], "docs": PASSAGES}, ("Ada.",)),
    ],
)
def test_passages_are_kept_with_titles_ids_and_scores(
    tmp_path: Path, task: str, asked: dict[str, Any], golds: tuple[str, ...]
) -> None:
    (one,) = read(tmp_path, task, lines(asked), "set.jsonl")
    assert (one.answers, one.contexts) == (golds, KEPT)


@pytest.mark.parametrize("score", ["high", True, [1], float("inf"), "nan", 10**400])
def test_a_score_that_is_no_number_is_named(tmp_path: Path, score: Any) -> None:
    asked = {"question": "Where?", "possible_answers": ["Rome"], "ctxs": [{"text": "x", "score": score}]}
    with pytest.raises(DataError, match=r"item 0 has a passage with the score .* in 'ctxs'. A score is a number"):
        read(tmp_path, "popqa", [asked])


def test_passages_that_are_none_are_named(tmp_path: Path) -> None:
    asked = {"question": "Who?", "annotations": [{"long_answer": "Ada."}], "docs": "x"}
    assert read(tmp_path, "asqa", [asked])[0].contexts == (Context("", "x"),)
    with pytest.raises(DataError, match=r"item 0 has .* in 'docs'. A passage is a text"):
        read(tmp_path, "asqa", [asked | {"docs": [7]}])


def test_a_claim_of_pubhealth_is_true_or_false_in_any_case(tmp_path: Path) -> None:
    labels = ["SUPPORTS", "refutes", "True", "FALSE", True, False]
    asked = [{"claim": f"Claim {number}.", "label": label} for number, label in enumerate(labels)]
    found = read(tmp_path, "pubhealth", lines(*asked), "health_claims_processed.jsonl")
    assert [one.answers[0] for one in found] == ["true", "false", "true", "false", "true", "false"]
    assert found[0].question == "Claim 0."
    for other in ({"question": "Tea cures.", "answers": ["SUPPORTS"]}, {"claim": "Tea cures.", "answers": ["true"]}):
        (one,) = read(tmp_path, "pubhealth", lines(other))
        assert (one.question, one.answers) == ("Tea cures.", ("true",))
    with pytest.raises(DataError, match=r"item 0 has the answer 'mixture'\. Give one of supports, refutes"):
        read(tmp_path, "pubhealth", [{"claim": "Tea cures.", "label": "mixture"}])


def test_factscore_is_asked_without_gold_answers(tmp_path: Path) -> None:
    asked = {"input": "Question: Tell me about Ada.", "output": "", "topic": "Ada", "cat": ["rare", "Europe"]}
    (one,) = read(tmp_path, "factscore", lines(asked), "factscore.jsonl")
    assert (one.question, one.answers) == ("Question: Tell me about Ada.", ())
    assert one.labels == (("category", "rare, Europe"), ("topic", "Ada"))
    # Nor does a file in InstructRetro's form need them; any other task does.
    assert read(tmp_path, "factscore", [{"question": "Who is Ada?", "answers": []}])[0].answers == ()
    with pytest.raises(DataError, match="item 0 has no 'answers'"):
        read(tmp_path, "longform", [{"question": "Who is Ada?"}])


def test_asqa_as_alce_has_it(tmp_path: Path) -> None:
    pairs = [{"question": "a?", "short_answers": ["one", "1"], "context": "C."}]
    long = [{"long_answer": "One.", "knowledge": []}, {"long_answer": None}]
    asked = {"sample_id": "-7", "question": "Who?", "qa_pairs": pairs, "annotations": long, "answer": "One."}
    (one,) = read(tmp_path, "asqa", [asked | {"docs": PASSAGES}], "asqa_eval_gtr_top100.json")
    assert (one.id, one.answers, one.answer_groups) == ("-7", ("One.",), (("one", "1"),))
    assert one.contexts == KEPT
