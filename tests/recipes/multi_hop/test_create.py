"""The step that makes questions, with teachers that follow the steps and teachers that do not."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from retro.common.errors import ArtifactError, ConfigError, DataError
from retro.recipes import base
from retro.recipes.base import RECIPES, run_recipe
from retro.recipes.multi_hop.item_files import read_items
from retro.recipes.multi_hop.items import final_answer_parts, item_of, long_answer_parts
from retro.recipes.multi_hop.made_items import singles_of
from retro.recipes.multi_hop.recipe import MultiHop
from retro.run.config import RunConfig, as_yaml, load_run_config
from retro.teacher.request import TeacherRequest
from tests.recipes.multi_hop import world
from tests.recipes.multi_hop.samples import NEW
from tests.teacher.server import Sent, error, reply, serving

FILES = ("raw.jsonl", "filtered.jsonl", "final.jsonl", "dropped.jsonl")


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    world.calls()
    yield
    world.stop_after(1 << 30)


def config_of(folder: Path, script: str = "good", **settings: Any) -> RunConfig:
    folder.mkdir(exist_ok=True)
    (folder / "categories.txt").write_text(world.CATEGORIES)
    teacher = {"kind": "script", "function": f"tests.recipes.multi_hop.world:{script}"}
    create = {"categories": str(folder / "categories.txt"), "teacher": teacher} | settings
    return RunConfig(run_dir=folder / "run", recipe={"multi_hop": {"create": create}})


def run(config: RunConfig) -> Path:
    run_recipe(RECIPES.find("multi_hop", "recipe"), config, "create")
    return config.run_dir / "recipe_multi_hop" / "create"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def counts(step: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((step / "manifest.json").read_text())["counts"]
    return found


def test_a_good_teacher_makes_an_item_of_each_category_and_flow(tmp_path: Path) -> None:
    step = run(config_of(tmp_path, negative_share=0.0))
    # Bridge, Tower, Lake, Canal; two flows.
    assert counts(step) | {"rejected": 0} == {
        "categories": 4, "wanted": 8, "tries": 8, "filtered": 8, "items": 8, "negatives": 0, "singles": 0,
        "rejected": 0, "given_up": {}, "dropped": {}, "negatives_dropped": {}, "negatives_without_a_paragraph": 0,
    }  # fmt: skip
    items = read_items(step / "final.jsonl").items
    assert [one.id for one in items[:5]] == [
        "entities/Bridge/0", "entities/Tower/0", "entities/Lake/0", "entities/Canal/0", "attributes/Bridge/0",
    ]  # fmt: skip
    for one in items:
        assert one.multihop
        assert len(one.sub_questions) == 2
        for sub in one.sub_questions:
            reasoning, answer = long_answer_parts(sub.long_answer)
            assert answer.rpartition(" is ")[2] in sub.paragraph
            assert (
                reasoning == "Its " + sub.question.removeprefix("What is the ").partition(" of the N")[0] + " is given."
            )
        summary, answer = final_answer_parts(one.final_answer)
        assert summary == " ".join(long_answer_parts(sub.long_answer)[1] for sub in one.sub_questions)
        assert (answer, one.answer) == ("Both are known.", "Both are known.")
        assert one.meta["reasoning"] == "That is all."


def test_files_have_the_published_fields(tmp_path: Path) -> None:
    step = run(config_of(tmp_path))
    final = lines(step / "final.jsonl")[0]
    assert set(final) == {
        "question", "multihop", "sub_questions", "final_answer", "answer", "meta_info", "tag", "id", "src",
    }  # fmt: skip
    assert set(final["sub_questions"][0]) == {"question", "paragraph", "long_answer"}
    assert final["meta_info"].keys() == {
        "category", "flow", "question_type", "entities", "attributes", "popularity", "reasoning",
    }  # fmt: skip
    assert final["tag"] == "entities"
    filtered = lines(step / "filtered.jsonl")[0]
    assert filtered["question"] == final["question"]
    assert set(filtered["sub_questions"][0]) == {"question", "paragraph"}
    raw = lines(step / "raw.jsonl")[0]
    assert set(raw) == {
        "id", "flow", "category", "popularity", "question_type", "temperature", "seed", "try", "reply", "reason",
        "problem",
    }  # fmt: skip


def test_questions_are_asked_for_with_creativity_and_answers_at_zero(tmp_path: Path) -> None:
    run(config_of(tmp_path, items_per_category=3))
    asked = world.calls()
    questions = [one for one in asked if one.messages[0]["content"].startswith("Make a question")]
    answers = [one for one in asked if one not in questions]
    assert len(questions) == 24
    assert all(0.7 <= one.temperature <= 1.0 for one in questions)
    assert len({one.temperature for one in questions}) > 5
    assert answers
    assert {one.temperature for one in answers} == {0.0}
    assert {one.max_tokens for one in questions} == {1200}
    assert {one.max_tokens for one in answers} == {400}
    # The creative part asks for no answer.
    assert not any("+ Reasoning 1" in one.messages[0]["content"] for one in questions)
    texts = "\n".join(one.messages[0]["content"] for one in questions)
    assert all(f"it is at {number}" in texts for number in range(1, 6))
    assert "answered yes or no;" in texts
    assert "begins with a question word" in texts


def test_without_asking_again_the_answers_are_those_of_the_one_reply(tmp_path: Path) -> None:
    step = run(config_of(tmp_path, re_generate_answer=False, negative_share=0.0, flows=["entities", "comparison"]))
    assert len(world.calls()) == counts(step)["tries"]
    by_tag = {one["tag"]: one for one in lines(step / "final.jsonl")}
    assert by_tag["entities"]["sub_questions"][0]["long_answer"].startswith("The text says that its ")
    assert "\nAnswer:" in by_tag["entities"]["sub_questions"][0]["long_answer"]
    assert by_tag["entities"]["final_answer"].startswith("Summary:One is ")
    # The older form: an answer without reasoning, and the reasoning for a summary.
    assert "\nAnswer:" not in by_tag["comparison"]["sub_questions"][0]["long_answer"]
    assert by_tag["comparison"]["final_answer"].startswith("Summary:Both are known.\nAnswer:They are ")


def test_answers_of_the_older_form_are_asked_for_again(tmp_path: Path) -> None:
    step = run(config_of(tmp_path, flows=["comparison"], negative_share=0.0))
    one = lines(step / "final.jsonl")[0]
    assert one["sub_questions"][0]["long_answer"].endswith(" units.")
    assert "\nAnswer:" in one["sub_questions"][0]["long_answer"]
    assert one["meta_info"]["reasoning"] == "That is all."
    assert "+ Answer 2" in world.calls()[0].messages[0]["content"]


def test_malformed_replies_are_asked_for_again_and_counted(tmp_path: Path) -> None:
    step = run(config_of(tmp_path, "malformed_at_first"))
    found = counts(step)
    assert found["rejected"] == {
        "attributes: missing_field": 4, "attributes: text_outside_fields": 4,
        "entities: missing_field": 4, "entities: text_outside_fields": 4,
    }  # fmt: skip
    assert (found["tries"], found["filtered"], found["given_up"]) == (24, 8, {})
    raw = lines(step / "raw.jsonl")
    assert [one["try"] for one in raw if one["id"] == "entities/Lake/0"] == [1, 2, 3]
    assert raw[0]["problem"] == "has no field 'Paragraph 2'"
    seeds = {one["seed"] for one in raw if one["id"] == "entities/Lake/0"}
    assert len(seeds) == 3


def test_after_the_last_try_a_question_is_given_up(tmp_path: Path) -> None:
    step = run(config_of(tmp_path, "malformed_at_first", items_per_category=2, retries=1, flows=["entities"]))
    # With two tries each, seeds 1234 to 1237: numbers 0 and 1 of a category; the third of six samples is good.
    found = counts(step)
    assert (found["wanted"], found["tries"], found["filtered"]) == (8, 12, 4)
    assert found["given_up"] == {"entities: text_outside_fields": 4}
    assert [one["id"] for one in lines(step / "filtered.jsonl")] == [
        f"entities/{name}/1" for name in ("Bridge", "Tower", "Lake", "Canal")
    ]


def test_a_category_with_brackets_is_no_placeholder(tmp_path: Path) -> None:
    config = config_of(tmp_path, flows=["entities"], negative_share=0.0)
    (tmp_path / "categories.txt").write_text("Bridge [film]")
    found = counts(run(config))
    assert (found["filtered"], found["rejected"]) == (1, {})


def test_where_no_question_passes_the_replies_are_there_to_look_at(tmp_path: Path) -> None:
    config = config_of(tmp_path, "always_malformed", retries=2)
    with pytest.raises(DataError, match=r"raw\.jsonl: no question passed of 8 \(\{'entities: text_outside_fields': 12"):
        run(config)
    assert len(lines(config.run_dir / "recipe_multi_hop" / "create" / "raw.jsonl")) == 24


def test_an_entity_that_is_missing_from_the_question_is_filtered_out(tmp_path: Path) -> None:
    step = run(config_of(tmp_path, "hallucinating", flows=["entities"], retries=5))
    found = counts(step)
    assert found["rejected"] == {"entities: entity_not_in_question": 6}
    assert found["given_up"] == {"entities: entity_not_in_question": 1}
    assert {one["meta_info"]["category"] for one in lines(step / "filtered.jsonl")} == {"Bridge", "Lake", "Canal"}


def test_a_question_that_was_made_before_is_asked_for_again(tmp_path: Path) -> None:
    # The teacher makes the same of a category and a seed in both forms of the comparison.
    step = run(config_of(tmp_path, flows=["entities", "comparison"]))
    assert counts(step)["rejected"] == {"comparison: duplicate": 4}
    asked = [one["question"] for one in lines(step / "filtered.jsonl")]
    assert len(set(asked)) == len(asked) == 8


def test_negatives_have_a_paragraph_of_another_item_and_say_so(tmp_path: Path) -> None:
    step = run(config_of(tmp_path, items_per_category=5, negative_share=0.5))
    found = counts(step)
    assert (found["items"], found["negatives"], found["negatives_dropped"]) == (40, 20, {})
    made = {one.id: one for one in read_items(step / "final.jsonl").items}
    negatives = [one for one in made.values() if one.id.endswith("/neg")]
    assert {one.extra["tag"] for one in negatives} == {"entities-neg", "attributes-neg"}
    assert {tuple(one.meta["replaced"]) for one in negatives} == {(1,), (2,), (1, 2)}
    for one in negatives:
        original = made[one.id.removesuffix("/neg")]
        assert one.question == original.question
        for number, (sub, before) in enumerate(zip(one.sub_questions, original.sub_questions, strict=True), start=1):
            assert sub.unanswerable == (number in one.meta["replaced"])
            assert (sub == before) == (not sub.unanswerable)
            assert sub.long_answer.endswith("\nAnswer:The paragraph does not say.") == sub.unanswerable
        assert one.final_answer.endswith("\nAnswer:This cannot be answered from what was found.")


def test_answers_that_are_invented_are_dropped_and_counted(tmp_path: Path) -> None:
    step = run(config_of(tmp_path, "inventing", negative_share=1.0, flows=["entities"]))
    found = counts(step)
    assert (found["items"], found["negatives"]) == (4, 0)
    assert found["negatives_dropped"] == {"entities: sub-question: answered_without_an_answer": 4}
    dropped = lines(step / "dropped.jsonl")
    assert len(dropped) == 4
    assert dropped[0]["problem"].startswith("is answered 'It opened in 1999.': 'What is the ")


def test_final_answers_are_checked_as_those_of_sub_questions_are(tmp_path: Path) -> None:
    config = config_of(tmp_path / "both", "doubtful", flows=["entities"])
    with pytest.raises(
        DataError, match=r"no item is left of 4 questions \(\{'entities: final answer: no_answer_found': 4"
    ):
        run(config)
    step = run(config_of(tmp_path / "negatives", "boasting", flows=["entities"], negative_share=1.0))
    found = counts(step)
    assert (found["items"], found["negatives"]) == (4, 0)
    assert found["negatives_dropped"] == {"entities: final answer: answered_without_an_answer": 4}


def test_sub_questions_become_single_hop_items(tmp_path: Path) -> None:
    step = run(config_of(tmp_path, single_share=1.0, negative_share=0.25))
    found = counts(step)
    assert found["singles"] == 2 * (found["items"] + found["negatives"]) == 20
    single = read_items(step / "final.jsonl").items[-1]
    assert not single.multihop
    assert single.question == single.sub_questions[0].question
    assert single.final_answer == single.sub_questions[0].long_answer.partition("\nAnswer:")[2]


def test_singles_are_drawn_by_the_seed() -> None:
    items = [item_of(NEW | {"id": str(number)}) for number in range(100)]
    assert singles_of(items, 0.0, 1) == []
    some = singles_of(items, 0.3, 1)
    assert some == singles_of(items, 0.3, 1) != singles_of(items, 0.3, 2)
    assert 40 <= len(some) <= 80


@pytest.mark.parametrize("count", [0, 1, 7, 8, 12, 23, 24, 30])
def test_a_stop_anywhere_changes_no_byte_and_repeats_no_call(tmp_path: Path, count: int) -> None:
    whole = run(config_of(tmp_path / "whole", items_per_category=1, negative_share=0.5))
    asked = world.calls()
    assert len(asked) > 30
    config = config_of(tmp_path / "stopped", items_per_category=1, negative_share=0.5)
    world.stop_after(count)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    step = run(config)
    assert world.calls() == asked
    for name in FILES:
        assert (step / name).read_bytes() == (whole / name).read_bytes()


def test_a_stop_before_the_step_is_whole_changes_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    config = config_of(tmp_path)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(base, "write_manifest", stop)
        run(config)
    step = config.run_dir / "recipe_multi_hop" / "create"
    before = {name: (step / name).read_bytes() for name in FILES}
    asked = len(world.calls())
    assert asked
    run(config)
    assert world.calls() == []
    assert {name: (step / name).read_bytes() for name in FILES} == before


def test_a_killed_process_goes_on_where_it_was(tmp_path: Path) -> None:
    whole = run(config_of(tmp_path / "whole", "killed"))
    config = config_of(tmp_path / "killed", "killed")
    path = tmp_path / "run.yaml"
    path.write_text(as_yaml(config))
    command = [sys.executable, "-m", "retro", "recipe", "multi_hop", "run", str(path), "create"]
    for kill_at in (5, 15):
        ended = subprocess.run(command, env=os.environ | {"KILL_AT": str(kill_at)}, capture_output=True, check=False)
        assert ended.returncode == -9
    step = config.run_dir / "recipe_multi_hop" / "create"
    assert not (step / "final.jsonl").exists()
    world.calls()
    run(config)
    # The first process kept 4 replies, the second 14 more.
    replies = (whole.parent / "teacher" / "teacher_replies.jsonl").read_text().count('"key"')
    assert len(world.calls()) == replies - 18 > 0
    for name in FILES:
        assert (step / name).read_bytes() == (whole / name).read_bytes()


def test_a_slow_teacher_makes_the_same(tmp_path: Path) -> None:
    assert (run(config_of(tmp_path / "slow", "slow")) / "final.jsonl").read_bytes() == (
        run(config_of(tmp_path)) / "final.jsonl"
    ).read_bytes()


def test_a_server_that_limits_the_rate_is_asked_again_and_its_cost_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "retro")

    def answer(body: dict[str, Any], before: int) -> Sent:
        # Each prompt is refused the first time it comes.
        if not before:
            return error(429, "Rate limit reached")
        return reply(world.good(request_of(body)))

    with serving(answer) as server:
        teacher = {
            "kind": "openai", "model": "m", "base_url": server.url, "api_key_env": "", "concurrency": 4,
            "input_price": 1e6, "output_price": 1e6,
        }  # fmt: skip
        step = run(config_of(tmp_path, teacher=teacher, flows=["entities"], negative_share=0.0))
        sent = len(server.bodies)
    whole = run(config_of(tmp_path / "scripted", flows=["entities"], negative_share=0.0))
    assert (step / "final.jsonl").read_bytes() == (whole / "final.jsonl").read_bytes()
    # 4 questions, 8 answers of sub-questions, 4 final ones; each twice. 7 tokens in and 3 out cost 10.
    assert sent == 32
    report = json.loads((step / "report.json").read_text())
    assert "16 requests, 0 cached, 112 tokens in, 48 out, 16 retried, cost 160.0000" in report["teacher"]
    told = [line for line in caplog.messages if line.startswith("create: questions, try 1 of 6: 4/4 replies")]
    assert told[0].endswith("cost 40.0000 of about 40.0000")
    assert any("create: 4 questions, 4 to ask for: about " in line for line in caplog.messages)
    assert {body["seed"] for body in server.bodies if body["temperature"]} == {1234}


def test_replies_that_are_cut_are_asked_for_again(tmp_path: Path) -> None:
    def answer(body: dict[str, Any], _: int) -> Sent:
        prompt = body["messages"][0]["content"]
        cut = body["seed"] == 1234 if body["temperature"] else "Facts:" in prompt and "Tower" in prompt
        return reply(world.good(request_of(body)), **({"finish_reason": "length"} if cut else {}))

    with serving(answer) as server:
        teacher = {"kind": "openai", "model": "m", "base_url": server.url, "api_key_env": ""}
        step = run(config_of(tmp_path, teacher=teacher, flows=["entities"], retries=1))
    assert counts(step)["rejected"] == {"entities: cut_at_max_tokens": 4}
    assert (counts(step)["filtered"], counts(step)["items"]) == (4, 3)
    assert counts(step)["dropped"] == {"entities: final answer: cut_at_max_tokens": 1}


def test_where_no_answer_passes_the_problems_are_there_to_look_at(tmp_path: Path) -> None:
    config = config_of(tmp_path, "unable", flows=["entities"])
    with pytest.raises(DataError, match=r"dropped\.jsonl: no item is left of 4 questions \(.*no_answer_found': 4"):
        run(config)
    assert len(lines(config.run_dir / "recipe_multi_hop" / "create" / "dropped.jsonl")) == 4


def request_of(body: dict[str, Any]) -> TeacherRequest:
    return TeacherRequest(messages=tuple(body["messages"]), temperature=body["temperature"], seed=body.get("seed", 0))


def test_other_settings_need_redo(tmp_path: Path) -> None:
    run(config_of(tmp_path))
    with pytest.raises(ArtifactError, match="retro recipe multi_hop run CONFIG create"):
        run(config_of(tmp_path, seed=5))
    config = config_of(tmp_path)
    (tmp_path / "categories.txt").write_text("Sea")
    with pytest.raises(ArtifactError, match="--redo"):
        run(config)


def test_without_categories_the_step_says_what_it_needs(tmp_path: Path) -> None:
    config = RunConfig(run_dir=tmp_path / "run")
    with pytest.raises(ConfigError, match=r"create\.categories = None: needs a file of categories"):
        run(config)


def test_all_steps_pass_over_what_is_not_asked_for(tmp_path: Path) -> None:
    run_recipe(RECIPES.find("multi_hop", "recipe"), RunConfig(run_dir=tmp_path / "run"))
    assert not (tmp_path / "run" / "recipe_multi_hop" / "create").exists()


def test_the_run_to_start_from_has_the_counts_of_the_original() -> None:
    path = Path(base.__file__).with_name("multi_hop") / "config.yaml"
    config = load_run_config(path, [])
    settings: Any = base.recipe_settings(config, RECIPES.find("multi_hop", "recipe"))
    assert (settings.convert.squad.answerable, settings.convert.squad.unanswerable) == (4000, 2400)
    assert (settings.convert.boolq.items, settings.convert.drop.items) == (1600, 1600)
    assert (settings.convert.musique.answerable, settings.convert.musique.unanswerable) == ("all", 2400)
    assert settings.create.temperature == (0.7, 1.0)
    assert [one.name for one in MultiHop.steps if one.wanted(settings)][:2] == ["convert", "create"]
