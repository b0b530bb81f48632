from __future__ import annotations

from pathlib import Path

import pytest

from retro.common.config import config_json
from retro.common.errors import ConfigError, DataError
from retro.qa.json_paths import MISSING, JsonObject, find, objects_at
from retro.qa.prompts import known_kinds
from retro.qa.task import FewShot, Task, all_tasks, load_task, task_names

SHIPPED = (
    "2wiki arc_c asqa boolq doc2dial drop factscore hotpotqa longform multi_choice narrativeqa newsqa nq popqa "
    "pubhealth qa qrecc quac quoref race ropes squad1.1 squad2.0 tqa"
)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_every_shipped_task_is_whole() -> None:
    assert " ".join(task_names()) == SHIPPED
    for one in all_tasks():
        assert load_task(one.name) == one
        assert one.kind in known_kinds(), one.name
        assert one.description, one.name
        assert bool(one.source) == bool(one.official) == (one.name not in ("qa", "multi_choice", "longform"))


def test_a_wrong_task_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="task = 'hotpot': is not a task; did you mean 'hotpotqa'"):
        load_task("hotpot")


def test_a_task_of_ones_own_is_a_file(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.yaml", "{name: mine, version: 3, description: x, kind: chat, metrics: [f1]}")
    assert (load_task(path).name, load_task(str(path)).version) == ("mine", 3)


def test_a_file_may_extend_a_shipped_task(tmp_path: Path) -> None:
    (tmp_path / "shots.json").write_text("[]")
    path = write(tmp_path / "mine.yaml", "{extends: nq, name: nq-3, few_shot: {count: 3, file: shots.json}}")
    task = load_task(path)
    assert (task.normalisation, task.name, task.metrics) == ("nq", "nq-3", load_task("nq").metrics)
    assert task.few_shot.file == tmp_path / "shots.json"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{extends: nq, metrics: [chrf]}", r"metrics = 'chrf': is not a metric; known: accuracy, answered,"),
        ("{extends: nq, metrik: [f1]}", r"metrik = .*: is not a setting; did you mean 'metrics'"),
        ("{extends: nope}", "task = 'nope': is not a task"),
        ("{name: a}", r"version = None: needs a value"),
        ("{extends: nq, metrics: [f1, f1]}", "needs each metric once"),
        ("{extends: nq, stop: ['']}", "needs texts that are not empty"),
        ("{extends: nq, layouts: [{question: q, answers: [a], blank: no_answer}]}", "no_answer = .*without one"),
        ("{extends: nq, layouts: [{question: q, answers: []}]}", "needs where the gold answers are; or blank: ask"),
        ("{extends: nq, few_shot: {count: 2, examples: [{question: q, answer: a}]}}", "needs at most 1, the number"),
        ("{extends: nq, few_shot: {file: a, examples: [{question: q, answer: a}]}}", "needs to be left out where"),
    ],
)
def test_mistakes_in_a_task_file_name_it(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(DataError, match=rf"mine\.yaml: .*{problem}"):
        load_task(write(tmp_path / "mine.yaml", text))


def test_answers_carry_what_scores_them_and_nothing_about_reading() -> None:
    record = load_task("squad2.0").record()
    assert (record["version"], record["no_answer"][0]) == (3, "unanswerable")
    assert record["metrics"] == ["f1", "exact_match", "substring_match"]
    assert set(config_json(load_task("qa"))) - set(record) == {"layouts", "source", "official", "description"}
    assert Task(**record, description="").record() == record


def test_the_place_of_the_examples_is_not_recorded(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.yaml", "{extends: nq, few_shot: {count: 3, file: shots.json}}")
    record = load_task(path).record()
    assert record["few_shot"]["file"] == "shots.json"
    assert Task(**record, description="").few_shot.count == 3


def test_examples_need_no_file() -> None:
    assert FewShot(count=0).examples == ()


ROOT = {"title": "T", "rows": [{"n": 1, "deep": {"x": ["a", "b"]}}, {"n": 2, "deep": {"x": ["c"]}}], "by": {"k": {}}}


def test_items_are_found_with_what_is_around_them() -> None:
    first, second = objects_at("line 1", ROOT, "rows[]")
    assert (first.name, second.name) == ("line 1.rows[0]", "line 1.rows[1]")
    assert (find(second, "n"), find(second, "title"), find(second, "deep.x")) == (2, "T", ["c"])
    assert list(second.siblings[: second.number]) == [ROOT["rows"][0]]  # type: ignore[index]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("rows[].n", [1, 2]),
        ("rows[].deep.x", [["a", "b"], ["c"]]),
        ("rows[].deep.x[]", ["a", "b", "c"]),
        ("by{}", [{}]),
        ("rows.n", MISSING),
        ("title[]", MISSING),
        ("rows[].no", MISSING),
        ("none", MISSING),
    ],
)
def test_paths_worked_by_hand(path: str, value: object) -> None:
    found = find(JsonObject("", (ROOT,)), path)
    assert found is value if value is MISSING else found == value


def test_values_of_objects_have_their_key() -> None:
    (place,) = objects_at("", {"dev": {"q7": {"text": "?"}}}, "{}.{}")
    assert (find(place, "key"), find(place, "text"), place.name) == ("q7", "?", "['dev']['q7']")


def test_a_path_that_leads_nowhere_has_no_items() -> None:
    assert [*objects_at("", ROOT, "none[]"), *objects_at("", ROOT, "title{}")] == []
    assert [place.name for place in objects_at("", ROOT, "by")] == ["by"]
