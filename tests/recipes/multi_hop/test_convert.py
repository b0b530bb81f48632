"""The step that makes items of public data sets, on a few rows of each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from retro.common.errors import ConfigError, DataError
from retro.recipes.base import RECIPES, run_recipe
from retro.recipes.multi_hop.item_files import read_items
from retro.recipes.multi_hop.items import MultiHopItem
from retro.run.config import RunConfig
from tests.recipes.multi_hop import public


def config_of(folder: Path, *sets: str, **settings: Any) -> RunConfig:
    folder.mkdir(exist_ok=True)
    paths = public.write(folder)
    given: dict[str, Any] = {name: {"path": str(paths[name])} for name in sets}
    for name in sets:
        given[name] |= settings.pop(name, {})
    teacher = {"kind": "script", "function": "tests.recipes.multi_hop.public:reader"}
    return RunConfig(run_dir=folder / "run", recipe={"multi_hop": {"convert": given | {"teacher": teacher} | settings}})


def run(config: RunConfig) -> Path:
    run_recipe(RECIPES.find("multi_hop", "recipe"), config, "convert")
    return config.run_dir / "recipe_multi_hop" / "convert"


def made(config: RunConfig) -> tuple[dict[str, MultiHopItem], dict[str, Any], dict[str, str]]:
    """The items by id, the counts, and why others were dropped."""
    step = run(config)
    counts: dict[str, Any] = json.loads((step / "manifest.json").read_text())["counts"]
    dropped = [json.loads(line) for line in (step / "dropped.jsonl").read_text().splitlines()]
    items = read_items(step / "items.jsonl").items
    return {one.id: one for one in items}, counts, {one["id"]: one["reason"] for one in dropped}


def test_squad_has_full_answers_and_says_where_there_is_none(tmp_path: Path) -> None:
    items, counts, dropped = made(config_of(tmp_path, "squad"))
    assert counts["sets"] == {
        "squad, answerable": {
            "wanted": 4000, "there": 5, "drawn": 5, "kept": 4, "share_kept": 0.8,
            "dropped": {"sub-question: gold_answer_not_said": 1},
        },
        "squad, unanswerable": {
            "wanted": 2400, "there": 2, "drawn": 2, "kept": 1, "share_kept": 0.5,
            "dropped": {"sub-question: answered_without_an_answer": 1},
        },
    }  # fmt: skip
    assert dropped.keys() == {"squad/s7", "squad/s6"}
    one = items["squad/s1"]
    assert (one.multihop, one.src, one.meta) == (False, "squad.json", {"title": "Alma Bridge"})
    [sub] = one.sub_questions
    assert (sub.question, sub.paragraph, sub.answer) == (one.question, public.BRIDGE, "1856")
    assert sub.long_answer == "It is said there.\nAnswer:The Alma Bridge was opened in 1856."
    assert (one.final_answer, one.answer) == ("The Alma Bridge was opened in 1856.", "1856")
    none = items["squad/s3"]
    assert none.sub_questions[0].unanswerable
    assert (none.final_answer, none.answer) == ("The paragraph does not say.", "")


def test_boolq_is_answered_yes_or_no_with_the_reasoning(tmp_path: Path) -> None:
    items, counts, dropped = made(config_of(tmp_path, "boolq"))
    # Gold no, said yes, whatever stands further on.
    assert dropped == {"boolq/3": "sub-question: gold_answer_not_said"}
    assert counts["sets"]["boolq"]["share_kept"] == 0.8
    assert items["boolq/0"].final_answer == "It is said there. Yes, the Alma Bridge is older than 1900."
    assert items["boolq/1"].answer == "no"


def test_drop_has_its_arithmetic_and_all_spans(tmp_path: Path) -> None:
    items, _, dropped = made(config_of(tmp_path, "drop"))
    assert dropped == {"drop/d2": "sub-question: gold_answer_not_said"}
    assert items["drop/d1"].final_answer == "24 + 10 = 34 The Lions scored 34 points."
    assert items["drop/d1"].sub_questions[0].long_answer == "24 + 10 = 34\nAnswer:The Lions scored 34 points."
    assert items["drop/d3"].answer == "Smith, Jones"


def test_musique_has_sub_questions_with_references_filled_in(tmp_path: Path) -> None:
    items, counts, dropped = made(config_of(tmp_path, "musique"))
    one = items["musique/3hop__2"]
    assert (one.multihop, one.src, one.answer) == (True, "musique.json", "the Rhine")
    asked = ["Who opened the Alma Bridge?", "Where was Emil Horn born?", "On which river does Basel lie?"]
    assert [sub.question for sub in one.sub_questions] == asked
    assert one.sub_questions[1].paragraph == "T2: Emil Horn was born in Basel."
    assert one.final_answer == (
        "Summary:The Alma Bridge was opened by Emil Horn. Emil Horn was born in Basel. Basel lies on the Rhine.\n"
        "Answer:On the Rhine."
    )
    assert dropped == {"musique/2hop__8": "final answer: gold_answer_not_said"}
    assert counts["skipped"]["musique"] == {
        "no_paragraph_missing": 1, "one_sub_question_left": 1, "paragraph_missing": 1, "sub_question_with_>>": 1,
    }  # fmt: skip
    assert counts["sets"]["musique, answerable"]["there"] == 3
    assert counts["sets"]["musique, answerable"]["wanted"] == "all"


def test_a_sub_question_without_its_paragraph_gets_another_one(tmp_path: Path) -> None:
    items, _, _ = made(config_of(tmp_path, "musique"))
    one = items["musique/2hop__5/neg"]
    assert [sub.unanswerable for sub in one.sub_questions] == [False, True]
    assert "1900" not in one.sub_questions[1].paragraph
    assert one.sub_questions[1].answer == ""
    assert one.sub_questions[1].long_answer.endswith("\nAnswer:The paragraph does not say.")
    assert one.final_answer.endswith("\nAnswer:This cannot be answered from what was found.")
    assert one.answer == ""


def test_a_number_that_refers_to_no_sub_question_before_is_text(tmp_path: Path) -> None:
    config = config_of(tmp_path, "musique", require_gold=False)
    steps = [dict(one) for one in public.MUSIQUE[0]["question_decomposition"]]
    asked = ("Who had the #1 hit?", "Who is older than #1, of the #12?")
    changed = [one | {"question": text} for one, text in zip(steps, asked, strict=False)]
    path = tmp_path / "musique.json"
    path.write_text(json.dumps(public.MUSIQUE[0] | {"question_decomposition": changed}) + "\n")
    items, _, _ = made(config)
    first = steps[0]["answer"]
    found = [sub.question for sub in items["musique/2hop__1"].sub_questions]
    assert found == ["Who had the #1 hit?", f"Who is older than {first}, of the #12?"]


def test_all_sets_make_one_file_in_order(tmp_path: Path) -> None:
    _, counts, _ = made(config_of(tmp_path, "squad", "boolq", "drop", "musique"))
    items = read_items(tmp_path / "run" / "recipe_multi_hop" / "convert" / "items.jsonl").items
    assert [one.src for one in items] == [
        *["squad.json"] * 5, *["boolq.json"] * 4, *["drop.json"] * 4, *["musique.json"] * 3,
    ]  # fmt: skip
    assert counts["items"] == 16


def test_counts_are_settings_and_the_choice_is_the_seeds(tmp_path: Path) -> None:
    wanted = {"squad": {"answerable": 2, "unanswerable": 1}, "boolq": {"items": 3}, "require_gold": False}
    first, counts, _ = made(config_of(tmp_path / "a", "squad", "boolq", **json.loads(json.dumps(wanted))))
    drawn = {name: (one["drawn"], one["kept"]) for name, one in counts["sets"].items()}
    assert drawn == {"squad, answerable": (2, 2), "squad, unanswerable": (1, 1), "boolq": (3, 3)}
    again, _, _ = made(config_of(tmp_path / "b", "squad", "boolq", **json.loads(json.dumps(wanted))))
    assert again == first
    others = [
        made(config_of(tmp_path / f"c{seed}", "squad", "boolq", seed=seed, **json.loads(json.dumps(wanted))))[0].keys()
        for seed in range(4)
    ]
    assert len({tuple(one) for one in others}) > 1


def test_without_the_check_a_wrong_answer_stays(tmp_path: Path) -> None:
    items, counts, dropped = made(config_of(tmp_path, "squad", require_gold=False))
    assert dropped == {}
    assert items["squad/s7"].final_answer == "The Bern Tower was a jail."
    assert counts["sets"]["squad, answerable"]["share_kept"] == 1.0


def test_too_few_questions_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(config_of(tmp_path, "boolq"))
    assert "convert: boolq has 5 questions, 1600 were wanted: all are taken" in caplog.messages


def test_the_teacher_is_asked_at_temperature_zero_and_not_told_the_answer(tmp_path: Path) -> None:
    step = run(config_of(tmp_path, "squad", "drop"))
    replies = (step.parent / "teacher" / "teacher_replies.jsonl").read_text().splitlines()[1:]
    requests = [json.loads(line)["response"]["request"] for line in replies]
    assert {one["temperature"] for one in requests} == {0.0}
    of_game = [one["messages"][0]["content"] for one in requests if public.GAME in one["messages"][0]["content"]]
    assert len(of_game) == 5
    assert not any("34" in one for one in of_game)


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        ({"question": ""}, "no_question", "has a blank 'question'"),
        ({"question_decomposition": []}, "wrong_type", "has '[]' in 'question_decomposition'"),
        ({"answerable": "yes"}, "wrong_type", "has 'yes' in 'answerable', needs true or false"),
        ({"paragraphs": [{"idx": "0", "paragraph_text": "a"}]}, "wrong_type", "has '0' in 'idx' of a paragraph"),
        ({"answer_aliases": [1]}, "wrong_type", "has '[1]' in 'answer_aliases'"),
        (
            {"question_decomposition": [{"question": "a", "answer": "b", "paragraph_support_idx": 9}]},
            "no_passage",
            "has the supporting paragraph 9, which is not among its paragraphs",
        ),
    ],
)
def test_an_item_of_musique_that_is_malformed_is_named_or_counted(
    tmp_path: Path, change: dict[str, Any], reason: str, words: str
) -> None:
    config = config_of(tmp_path, "musique")
    path = tmp_path / "musique.json"
    path.write_text("".join(json.dumps(one) + "\n" for one in (public.MUSIQUE[0], public.MUSIQUE[1] | change)))
    with pytest.raises(DataError) as caught:
        run(config)
    assert f"musique.json: line 2 (item 1) {words}" in str(caught.value)
    assert "convert.skip_bad=true" in str(caught.value)
    config = config_of(tmp_path / "again", "musique", skip_bad=True)
    (tmp_path / "again" / "musique.json").write_bytes(path.read_bytes())
    items, counts, _ = made(config)
    assert list(items) == ["musique/2hop__1"]
    assert counts["skipped"]["musique"] == {reason: 1}


def test_a_question_may_be_there_with_and_without_its_paragraphs_but_not_twice(tmp_path: Path) -> None:
    config = config_of(tmp_path, "musique")
    steps = [dict(one) for one in public.MUSIQUE[0]["question_decomposition"]]
    first = {"id": 9, "question": "How many arches has it?", "answer": "five", "paragraph_support_idx": 0}
    twin = public.MUSIQUE[0] | {
        "answerable": False,
        "question_decomposition": [first, steps[0] | {"paragraph_support_idx": None}],
    }
    known = [public.MUSIQUE[0], public.MUSIQUE[0] | {"question": "Again?"}, twin]
    (tmp_path / "musique.json").write_text("".join(json.dumps(one) + "\n" for one in known))
    with pytest.raises(DataError, match=r"line 2 \(item 1\) has the id of an item before it: 'musique/2hop__1'"):
        run(config)
    (tmp_path / "musique.json").write_text("".join(json.dumps(one) + "\n" for one in (known[0], twin)))
    _, counts, _ = made(config)
    assert counts["sets"]["musique, answerable"]["there"] == counts["sets"]["musique, unanswerable"]["there"] == 1


def test_where_every_other_paragraph_holds_the_answer_the_item_is_left_out(tmp_path: Path) -> None:
    config = config_of(tmp_path, "musique")
    item = public.MUSIQUE[4]
    paragraphs = [one | {"paragraph_text": f"{one['paragraph_text']} In 1900."} for one in item["paragraphs"]]
    rows = (public.MUSIQUE[0], item | {"paragraphs": paragraphs})
    (tmp_path / "musique.json").write_text("".join(json.dumps(one) + "\n" for one in rows))
    _, counts, _ = made(config)
    assert counts["skipped"]["musique"] == {"no_other_paragraph": 1}


def test_bad_items_of_other_sets_are_named_or_counted(tmp_path: Path) -> None:
    config = config_of(tmp_path, "boolq")
    (tmp_path / "boolq.json").write_text(
        "".join(json.dumps(one) + "\n" for one in (public.BOOLQ[0], public.BOOLQ[1] | {"answer": "maybe"}))
    )
    with pytest.raises(DataError, match=r"boolq\.json: line 2 \(item 1\) has the answer 'maybe'"):
        run(config)
    counted = config_of(tmp_path / "again", "boolq", skip_bad=True)
    (tmp_path / "again" / "boolq.json").write_bytes((tmp_path / "boolq.json").read_bytes())
    _, counts, _ = made(counted)
    assert counts["skipped"]["boolq"] == {"wrong_type": 1}


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    config = config_of(tmp_path, "drop")
    (tmp_path / "drop.json").unlink()
    with pytest.raises(DataError, match=r"drop\.json: no such"):
        run(config)


def test_where_nothing_is_left_the_reasons_are_said(tmp_path: Path) -> None:
    config = config_of(tmp_path, "squad", squad={"answerable": 0, "unanswerable": 1}, seed=1)
    public_item = {"version": "v2.0", "data": [public.SQUAD["data"][1]]}
    (tmp_path / "squad.json").write_text(json.dumps(public_item))
    with pytest.raises(DataError, match=r"dropped\.jsonl: no item is left of 1 .*answered_without_an_answer"):
        run(config)
    [line] = (tmp_path / "run" / "recipe_multi_hop" / "convert" / "dropped.jsonl").read_text().splitlines()
    assert json.loads(line)["problem"].startswith("is answered 'The Bern Tower was built by monks.'")


def test_without_a_file_the_step_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"convert = None: needs a file, such as convert\.squad\.path"):
        run(config_of(tmp_path))


def test_a_stop_in_the_middle_changes_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("squad", "boolq", "drop", "musique")
    whole = run(config_of(tmp_path / "whole", *names))
    config = config_of(tmp_path / "stopped", *names)
    asked = list[str]()

    def stopped(request: Any) -> str:
        if len(asked) in (6, 20):
            asked.append("stop")
            raise KeyboardInterrupt
        asked.append(request.beginning)
        return reader(request)

    reader = public.reader
    monkeypatch.setattr(public, "reader", stopped)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(config)
    step = run(config)
    for name in ("items.jsonl", "dropped.jsonl"):
        assert (step / name).read_bytes() == (whole / name).read_bytes()
    replies = (whole.parent / "teacher" / "teacher_replies.jsonl").read_text().count('"key"')
    assert len(asked) - 2 == replies
