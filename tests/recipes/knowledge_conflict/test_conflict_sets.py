"""Conflict items made from a QA set and from published ones, and what a teacher writes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from retro.common.errors import ConfigError, DataError
from retro.qa.question import Context
from retro.recipes.base import RECIPES, recipe_settings
from retro.recipes.knowledge_conflict import conflict_sets
from retro.recipes.knowledge_conflict.config import KnowledgeConflictConfig, SetsConfig
from retro.recipes.knowledge_conflict.conflict_sets import ITEMS, make, with_both_sides
from retro.recipes.knowledge_conflict.counter_memory import problem_of, request_text
from retro.recipes.knowledge_conflict.items import ConflictItem, read_conflicts, write_conflicts
from retro.recipes.knowledge_conflict.prompts import Texts
from retro.run.config import load_run_config
from tests.qa.formats import samples

UNCERTAIN = "It is uncertain."
PUBLISHED = Path(os.environ.get("RETRO_PUBLIC_DATA", "data")) / "conflictqa_strategyqa_llama2_7b.jsonl"

QUESTIONS: list[dict[str, Any]] = [
    {
        "id": "a",
        "question": "Who wrote the notes?",
        "answers": ["Ada Lovelace", "Lovelace"],
        "ctxs": [
            {"title": "Notes", "text": "Ada Lovelace wrote the notes. They are known."},
            {"title": "Engine", "text": "An engine computes."},
        ],
        "labels": {"kind": "person"},
    },
    {"id": "b", "question": "Who wrote it?", "answers": ["Mary Shelley"], "ctxs": ["It is by Mary Shelley. So it is."]},
    {"id": "c", "question": "When was it?", "answers": ["1818"], "ctxs": ["In 1818 it was."]},
    {"id": "d", "question": "Was it so?", "answers": ["yes"], "ctxs": ["They said yes. It was so."]},
    {"id": "e", "question": "Where was it?", "answers": ["Geneva"], "ctxs": ["By a lake."]},
    {"id": "f", "question": "Who else?", "answers": ["Jane"]},
]


def written(folder: Path, items: list[dict[str, Any]], name: str = "in.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(one) + "\n" for one in items), encoding="utf-8")
    return path


def made(folder: Path, items: list[dict[str, Any]], **settings: Any) -> tuple[dict[str, ConflictItem], dict[str, Any]]:
    counts = make(SetsConfig(**({"questions": written(folder, items)} | settings)), UNCERTAIN, folder)
    return {one.id: one for one in read_conflicts(folder / ITEMS)}, counts


def texts(item: ConflictItem, condition: str) -> list[str]:
    return [one.text for one in item.conditions[condition]]


def test_the_answer_gives_way_to_one_of_the_same_type(tmp_path: Path) -> None:
    items, counts = made(tmp_path, QUESTIONS)
    first = items["a"]
    assert texts(first, "original") == ["Ada Lovelace wrote the notes. They are known."]
    # Geneva and Mary Shelley are names too.
    assert first.counter[0] in ("Mary Shelley", "Geneva")
    assert texts(first, "substituted") == [f"{first.counter[0]} wrote the notes. They are known."]
    assert first.replaced["substituted"] == (
        {"passage": 0, "from": "Ada Lovelace", "to": first.counter[0], "times": 1},
    )
    assert texts(first, "unanswerable") == ["They are known."]
    assert texts(first, "original_first") == texts(first, "original") + texts(first, "substituted")
    assert texts(first, "counter_first") == texts(first, "substituted") + texts(first, "original")
    assert first.labels == (("kind", "person"),)
    [irrelevant] = texts(first, "irrelevant")
    assert "Lovelace" not in irrelevant and first.counter[0] not in irrelevant
    assert counts["types"] == {"name": 3, "year": 1, "yes_no": 1}


def test_what_cannot_be_made_is_counted_by_its_reason(tmp_path: Path) -> None:
    items, counts = made(tmp_path, QUESTIONS)
    assert counts["left_out"] == {"no_passages": 1}
    assert counts["lacking"]["substituted"] == {"answer_not_in_passages": 1, "no_substitute": 1, "yes_or_no": 1}
    assert counts["lacking"]["unanswerable"] == {"answer_not_in_passages": 1, "nothing_left": 1, "yes_or_no": 1}
    assert counts["lacking"]["original_first"] == {"no_passages_of_both_sides": 3}
    assert counts["conditions"]["substituted"] == 2
    # There is no other year; to yes and to a question without a passage a teacher may still write.
    assert (items["c"].counter, items["d"].counter) == ((), ("no",))
    assert items["e"].counter[0] in ("Ada Lovelace", "Mary Shelley")
    assert set(items["e"].conditions) == {"irrelevant"}


def test_the_same_seed_gives_the_same_bytes_and_another_other_ones(tmp_path: Path) -> None:
    every = [
        {"id": f"q{n}", "question": "Who?", "answers": [f"Name{n:02}"], "ctxs": [f"It is Name{n:02}."]}
        for n in range(20)
    ]
    found = []
    for place, seed in enumerate((1, 1, 2)):
        folder = tmp_path / str(place)
        folder.mkdir()
        made(folder, every, seed=seed)
        found.append((folder / ITEMS).read_bytes())
    assert found[0] == found[1] != found[2]
    # Of one question it depends on that one and on the set of answers, not on the order of the file.
    folder = tmp_path / "turned"
    folder.mkdir()
    turned, _ = made(folder, every[::-1], seed=1, conditions=["original", "substituted"])
    items = {one.id: one for one in read_conflicts(tmp_path / "0" / ITEMS)}
    assert {name: one.counter for name, one in turned.items()} == {name: one.counter for name, one in items.items()}


def test_an_answer_in_the_question_or_the_passages_is_no_substitute(tmp_path: Path) -> None:
    every = [
        {"id": "a", "question": "Ada or Mary?", "answers": ["Ada"], "ctxs": ["Ada, not Jane."]},
        {"id": "b", "question": "Who?", "answers": ["Mary"], "ctxs": ["Mary."]},
        {"id": "c", "question": "Who?", "answers": ["Jane"], "ctxs": ["Jane."]},
    ]
    items, counts = made(tmp_path, every)
    assert "substituted" not in items["a"].conditions
    assert counts["lacking"]["substituted"] == {"no_substitute": 1}


def test_an_alias_stays_right(tmp_path: Path) -> None:
    items, _ = made(tmp_path, QUESTIONS[:2], substitution="alias")
    assert (items["a"].counter, items["a"].original) == (("Lovelace",), ("Ada Lovelace",))
    assert texts(items["a"], "substituted") == ["Lovelace wrote the notes. They are known."]
    assert "substituted" not in items["b"].conditions
    assert items["b"].counter == ()


def test_a_question_of_yes_or_no_keeps_its_passages_as_they_are(tmp_path: Path) -> None:
    items, counts = made(tmp_path, [QUESTIONS[3] | {"ctxs": ["It was so.", "Really."]}, QUESTIONS[1]])
    assert (texts(items["d"], "original"), items["d"].counter) == (["It was so."], ("no",))
    assert counts["lacking"]["substituted"] == {"no_substitute": 1, "yes_or_no": 1}


def test_passages_as_given_may_be_among_others(tmp_path: Path) -> None:
    turned = [QUESTIONS[0] | {"ctxs": QUESTIONS[0]["ctxs"][::-1]}, QUESTIONS[1]]
    items, _ = made(tmp_path, turned, passages=2, supporting_only=False)
    assert texts(items["a"], "original") == ["An engine computes.", "Ada Lovelace wrote the notes. They are known."]
    # The one without an answer is shown once where both sides are.
    assert len(texts(items["a"], "original_first")) == 3
    items, _ = made(tmp_path, turned, passages=1, supporting_only=False)
    assert "original" not in items["a"].conditions


def test_only_the_conditions_that_are_asked_for_are_made(tmp_path: Path) -> None:
    items, counts = made(tmp_path, QUESTIONS, conditions=["original", "counter_first"], limit=2)
    assert [set(one.conditions) for one in items.values()] == [{"original", "counter_first"}] * 2
    assert [set(one.replaced) for one in items.values()] == [set()] * 2
    assert set(counts["lacking"]) == set()


def test_items_are_read_again(tmp_path: Path) -> None:
    items, _ = made(tmp_path, QUESTIONS)
    (tmp_path / "again").mkdir()
    path = tmp_path / ITEMS
    counts = make(SetsConfig(questions=path, form="items", conditions=("original",)), UNCERTAIN, tmp_path / "again")
    assert counts["conditions"] == {"original": 4}
    again = {one.id: one for one in read_conflicts(tmp_path / "again" / ITEMS)}
    assert again["a"].conditions["original"] == items["a"].conditions["original"]


def test_conflictqa_shows_memory_against_the_counter_memory(tmp_path: Path) -> None:
    items, counts = made(tmp_path, samples.CONFLICTQA, form="conflictqa")
    entity, sentence = items["0"], items["1"]
    assert (entity.answers, entity.original, entity.counter) == (
        ("mathematician", "scientist"), ("poet",), ("mathematician",),
    )  # fmt: skip
    assert texts(entity, "original_first") == ["Ada was a poet of her time.", "Ada worked as a mathematician."]
    assert texts(sentence, "counter_memory") == ["Both lived in London."]
    assert entity.labels == (("popularity", "12"),)
    # The one sentence of the first passage has its answer; the second one says its answer in other words.
    assert counts["lacking"]["unanswerable"] == {"answer_not_in_passages": 1, "nothing_left": 1}
    aligned, _ = made(tmp_path, samples.CONFLICTQA, form="conflictqa", evidence="aligned")
    assert texts(aligned["0"], "counter_memory") == ["Ada wrote notes on an engine."]


def test_conflictqa_may_be_asked_with_both_answers_as_options(tmp_path: Path) -> None:
    items, _ = made(tmp_path, samples.CONFLICTQA, form="conflictqa", choices=True)
    assert sorted(items["0"].options) == sorted(("poet", "mathematician", UNCERTAIN))


def test_items_with_one_answer_on_both_sides_are_left_out(tmp_path: Path) -> None:
    same = samples.CONFLICTQA[0] | {"counter_answer": "Poet."}
    _, counts = made(tmp_path, [same, samples.CONFLICTQA[1]], form="conflictqa")
    assert (counts["left_out"], counts["items"]) == ({"same_answer": 1}, 1)


def test_other_published_sets_have_their_conditions(tmp_path: Path) -> None:
    [swap] = made(tmp_path, samples.NQ_SWAP, form="nq_swap")[0].values()
    assert texts(swap, "substituted") == ["The notes are by Mary Shelley."]
    silent, _ = made(tmp_path, samples.FAITHEVAL_UNANSWERABLE, form="faitheval_unanswerable")
    assert [list(one.conditions) for one in silent.values()] == [["unanswerable"]] * 2
    [both] = made(tmp_path, samples.FAITHEVAL_INCONSISTENT, form="faitheval_inconsistent")[0].values()
    assert (both.original, both.counter, list(both.conditions)) == (("Ada",), ("Mary",), ["contradicting"])
    [choice] = made(tmp_path, samples.FAITHEVAL_COUNTERFACTUAL, form="faitheval_counterfactual")[0].values()
    assert (choice.answers, choice.counter, choice.options) == ((), ("marshmallows",), ("rock", "marshmallows"))
    assert list(choice.conditions) == ["substituted"]


@pytest.mark.skipif(not PUBLISHED.exists(), reason="RETRO_PUBLIC_DATA names no folder with ConflictQA's file")
def test_the_published_conflictqa_is_read_whole(tmp_path: Path) -> None:
    counts = make(SetsConfig(questions=PUBLISHED, form="conflictqa"), UNCERTAIN, tmp_path)
    # 698 lines, of which one has the same answer on both sides.
    assert (counts["items"], counts["left_out"]) == (697, {"same_answer": 1})
    assert counts["conditions"]["original"] == counts["conditions"]["counter_memory"] == 697


def test_a_file_of_another_form_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 1 \(item 0\) has no 'parametric_memory'. Fix it; .*form"):
        made(tmp_path, QUESTIONS, form="conflictqa")


def test_questions_without_any_use_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gives no conflict item: left out \{'no_passages': 1\}"):
        made(tmp_path, QUESTIONS[5:])


def test_questions_of_two_ways_to_ask_are_refused(tmp_path: Path) -> None:
    choice = QUESTIONS[1] | {"id": "o", "qa_type": "multi_choice_qa", "multichoice_options": ["Ada", "Mary Shelley"]}
    with pytest.raises(DataError, match=r"has 1 questions with options and 1 without. Ask them in two runs"):
        made(tmp_path, [QUESTIONS[0], choice])


def test_names_of_one_type_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made(tmp_path, QUESTIONS)
    assert "all names are of one type" in caplog.text
    caplog.clear()
    (tmp_path / "types.yaml").write_text("person: [Ada Lovelace]")
    made(tmp_path, QUESTIONS, types=tmp_path / "types.yaml")
    made(tmp_path, QUESTIONS, substitution="type_swap")
    assert "all names" not in caplog.text


def test_a_file_has_to_be_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"sets.questions = None: needs a file of questions"):
        make(SetsConfig(), UNCERTAIN, tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"conditions": ("original", "original")}, r"SetsConfig.conditions = .*each condition once"),
        (
            {"conditions": ("counter_first", "substituted")},
            r"SetsConfig.conditions = .*needs original beside counter_first, which show its passages too",
        ),
        ({"choices": True}, r"SetsConfig.choices = True: needs form=conflictqa"),
    ],
)
def test_settings_that_cannot_be_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SetsConfig(**settings)


ITEM = {"id": "a", "question": "Who?", "answers": [], "original": ["x"], "counter": [], "conditions": {}}


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ([ITEM, ITEM], r"line 2 \(item 1\) has the id 'a' of another item"),
        ([ITEM | {"conditions": {"upside_down": []}}], r"line 1 \(item 0\) .*upside_down"),
        ([ITEM | {"conditions": {"original": []}}], r"line 1 \(item 0\) has no passage under conditions.original"),
        ([{"id": "a"}], r"line 1 \(item 0\) has no question"),
        ([], "holds no conflict item"),
    ],
)
def test_a_broken_file_of_items_is_named(tmp_path: Path, lines: list[dict[str, Any]], problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        read_conflicts(written(tmp_path, lines))


def test_items_survive_writing_and_reading(tmp_path: Path) -> None:
    item = ConflictItem(
        id="a", question="Who?", answers=("Ada",), original=("Ada",), counter=("Mary",), options=("Ada", "Mary"),
        labels=(("kind", "x"),), conditions={"original": (Context("T", "Ada {did}."),)},
        replaced={"original": ({"passage": 0, "from": "a", "to": "b", "times": 1},)},
    )  # fmt: skip
    write_conflicts(tmp_path / "items.jsonl", [item])
    assert read_conflicts(tmp_path / "items.jsonl") == [item]


def test_both_sides_need_both() -> None:
    item = ConflictItem(id="a", question="Who?", answers=("Ada",), original=("Ada",))
    assert with_both_sides(item) == item
    one = item.with_condition("original", [Context("", "Ada")]).with_condition("counter_memory", [Context("", "Mary")])
    assert texts(with_both_sides(one), "counter_first") == ["Mary", "Ada"]


@pytest.mark.parametrize(
    ("counter", "text", "problem"),
    [
        ("Mary", "It was Mary Shelley.", ""),
        ("Mary", "", "empty"),
        ("Mary", "It was she.", "other_answer_is_missing"),
        ("Mary", "It was Mary and not Ada.", "original_answer_is_mentioned"),
        ("no", "It was not so.", ""),
        ("The top of the mountain would not stick out of it.", "It is deeper than that.", ""),
    ],
)
def test_a_passage_of_the_teacher_is_checked(counter: str, text: str, problem: str) -> None:
    item = ConflictItem(id="a", question="Who?", answers=("Ada",), original=("Ada",), counter=(counter,))
    assert problem_of(item, text) == problem


def test_the_teacher_is_asked_with_every_slot_filled() -> None:
    item = ConflictItem(id="a", question="Who {x}?", answers=(), original=("Ada", "Lovelace"), counter=("{answer}",))
    text = request_text(item, Texts.load(None))
    assert "Question: Who {x}?" in text and 'answer to the question is "{answer}"' in text
    assert 'Do not mention "Ada" or "Lovelace"' in text
    assert "{question}" not in text and "{avoid}" not in text
    assert "Do not mention any other answer" in request_text(
        ConflictItem(id="a", question="Who?", answers=(), original=(), counter=("Mary",)), Texts.load(None)
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("version: 2", "has no 'name'"),
        ("name: mine", "has no 'version'"),
        ("{name: mine, version: 2, counter_memory: Write.}", "counter_memory = 'Write.': needs the place"),
        ("{name: mine, version: 2, counter_memory: '{question} {answer} {gold}'}", r"needs no \{gold\}"),
        ("{name: mine, version: 2, uncertain: ''}", "uncertain"),
    ],
)
def test_a_broken_file_of_texts_is_named(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "texts.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match=problem):
        Texts.load(path)


def test_the_shipped_run_can_be_read() -> None:
    path = Path(conflict_sets.__file__).with_name("config.yaml")
    found = recipe_settings(load_run_config(path, []), RECIPES.find("knowledge_conflict", "recipe"))
    assert isinstance(found, KnowledgeConflictConfig)
    assert (found.sets.questions, found.instruction) == (Path("questions.jsonl"), "abstain")


def test_texts_of_a_user_are_laid_over_the_shipped_ones(tmp_path: Path) -> None:
    path = tmp_path / "texts.yaml"
    path.write_text("{name: mine, version: 3, uncertain: Who knows}")
    found = Texts.load(path)
    assert (found.uncertain, found.abstain) == ("Who knows", Texts.load(None).abstain)
    assert (
        found.identity["name"] == "mine" and found.identity["fingerprint"] != Texts.load(None).identity["fingerprint"]
    )
