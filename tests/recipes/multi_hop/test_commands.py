"""The commands with the original's flags: what they make, and flags that do nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from retro.common.errors import ArtifactError, ConfigError, DataError
from retro.recipes.multi_hop.command import main, run
from retro.recipes.multi_hop.flows import STEPS
from retro.recipes.multi_hop.item_files import read_items
from retro.recipes.multi_hop.items import item_of
from tests.recipes.multi_hop import world
from tests.recipes.multi_hop.samples import NEW, OLD
from tests.teacher.server import KEY, Sent, reply, serving

TOOLS = Path(__file__).parents[3] / "tools" / "retro" / "recipes" / "multi_hop"
TEACHER = "recipe.multi_hop.create.teacher={kind: script, function: 'tests.recipes.multi_hop.world:good'}"


def words(folder: Path, *more: str) -> list[str]:
    (folder / "categories.txt").write_text(world.CATEGORIES)
    return [
        *("create", "--category-path", str(folder / "categories.txt")),
        *("--output-folder", str(folder / "out"), *more),
    ]


def test_create_leaves_files_with_the_names_of_the_original(tmp_path: Path) -> None:
    said = run(words(tmp_path, "--re-generate-answer", "--num-items-per-category", "2", TEACHER))
    out = tmp_path / "out"
    assert said == f"9 items of 8 questions in {out / 'final.json'}"
    assert len(json.loads((out / "raw_multi_hop_qa.json").read_text())) == 8
    assert len(json.loads((out / "filtered.json").read_text())) == 8
    items = read_items(out / "final.json").items
    assert {one.extra["tag"] for one in items} == {"entities", "entities-neg"}
    assert {one["temperature"] for one in json.loads((out / "raw_multi_hop_qa.json").read_text())} == {0.7}


def test_create_goes_on_and_asks_for_nothing_twice(tmp_path: Path) -> None:
    world.calls()
    asked = words(tmp_path, "--flow", "attributes", "--temperature", "1", TEACHER)
    first = run(asked)
    calls = world.calls()
    assert {one.temperature for one in calls if one.messages[0]["content"].startswith("Make")} == {1.0}
    assert run([*asked, "--continue-gen"]) == first
    assert world.calls() == []
    run([*asked, "--no-continue"])
    assert world.calls() == calls
    # Under other settings items are made again, and no reply is asked for that is there.
    more = [*asked, "recipe.multi_hop.create.single_share=0.5"]
    with pytest.raises(ArtifactError, match="--redo"):
        run(more)
    assert run([*more, "--redo"]) != first
    assert world.calls() == []


def test_a_prompt_of_ones_own_takes_the_place_of_the_flows(tmp_path: Path) -> None:
    world.calls()
    lines = "\n".join(f"+ {name}: it" for name in STEPS["entities"].creative)
    (tmp_path / "mine.txt").write_text(f'Make a question, please, of the category "{{category}}":\n{lines}\n')
    run(words(tmp_path, "--multi-qa-prompt", str(tmp_path / "mine.txt"), "--re-generate-answer", TEACHER))
    assert world.calls()[0].messages[0]["content"].startswith('Make a question, please, of the category "Bridge":')
    (tmp_path / "bad.txt").write_text("Make a question.")
    with pytest.raises(DataError, match=r"needs the place \{category\}"):
        run([*words(tmp_path, "--multi-qa-prompt", str(tmp_path / "bad.txt"), TEACHER), "--no-continue"])
    (tmp_path / "texts.yaml").write_text("name: mine\nversion: 1\nunknown: Nobody knows.")
    run([*words(tmp_path, "--multi-qa-prompt", str(tmp_path / "texts.yaml"), TEACHER), "--no-continue"])


def test_the_teacher_may_be_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def answer(body: dict[str, object], _: int) -> Sent:
        from tests.recipes.multi_hop.test_create import request_of

        return reply(world.good(request_of(body)))

    with serving(answer) as server:
        run(words(tmp_path, "--llm", server.url, "recipe.multi_hop.create.negative_share=0"))
    assert {body["model"] for body in server.bodies} == {"default"}
    # No key is sent to a server of one's own, and none is in a file.
    assert not any(KEY in (one or "") for one in server.authorizations)
    assert not any(KEY in path.read_text() for path in (tmp_path / "out").rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--flow", "three"], "invalid choice: 'three'"),
        (["--prompt-type", "openai"], "--prompt-type = True: needs to be left out"),
        (["--gen-paragraph-prompt", "a"], "needs to be left out: paragraphs come with the question"),
        (["--catgory-path", "a"], "is not a flag of create; did you mean '--category-path'?"),
        (["--continue-gen", "--no-continue"], "--no-continue = True: needs to be left out beside --continue-gen"),
        (["--temperature", "0", TEACHER], "temperature"),
        (["negative_share"], "settings = 'negative_share': needs the form section.setting=value"),
        ([], "teacher.model = '': needs the name of a model"),
        (["--llm", "http://user:pw@host/v1"], "needs an address without user"),
    ],
)
def test_flags_that_cannot_be_are_named(tmp_path: Path, more: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run(words(tmp_path, *more))
    assert message in str(caught.value)
    assert "pw" not in str(caught.value)


def test_an_unknown_command_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert-fromat"]) == 2
    assert "convert-format" in capsys.readouterr().err


def test_a_file_is_converted_to_the_old_layout_and_back(tmp_path: Path) -> None:
    source = tmp_path / "new.jsonl"
    source.write_text(json.dumps(NEW) + "\n" + json.dumps(OLD) + "\n")
    said = run(["convert-format", str(source), str(tmp_path / "old.json"), "--layout", "old"])
    assert said == f"2 items, 1 multi-hop; in {tmp_path / 'old.json'}"
    found = json.loads((tmp_path / "old.json").read_text())
    assert found[1] == OLD
    assert "multihop" not in found[0]
    run(["convert-format", str(tmp_path / "old.json"), str(tmp_path / "back.jsonl")])
    assert json.loads((tmp_path / "back.jsonl").read_text().partition("\n")[0]) == NEW
    assert read_items(tmp_path / "back.jsonl").items == [item_of(NEW), item_of(OLD)]


def test_what_is_left_out_and_what_has_another_form_is_said(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    rows = [NEW, NEW | {"final_answer": "The tower."}, NEW | {"question": ""}]
    source.write_text("".join(json.dumps(one) + "\n" for one in rows))
    with pytest.raises(DataError, match=r"line 3 \(item 2\) has a blank 'question'"):
        run(["convert-format", str(source), str(tmp_path / "b.jsonl")])
    assert not (tmp_path / "b.jsonl").exists()
    said = run(["convert-format", str(source), str(tmp_path / "b.jsonl"), "--skip-bad"])
    assert said == (
        "2 items, 2 multi-hop, 1 with answers that are not in the form with `Answer:`, 1 left out (no_question 1); "
        f"in {tmp_path / 'b.jsonl'}"
    )


def test_a_folder_is_converted_part_by_part(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train.json").write_text(json.dumps([NEW, NEW]))
    (folder / "validation.json").write_text(json.dumps([OLD]))
    said = run(["convert-format", str(folder), str(tmp_path / "out")])
    assert said == f"train: 2 items, 2 multi-hop; validation: 1 items, 0 multi-hop; in {tmp_path / 'out'}"
    assert read_items(tmp_path / "out" / "validation.jsonl").items == [item_of(OLD)]
    with pytest.raises(ConfigError, match="needs to be a folder where IN is one"):
        run(["convert-format", str(folder), str(tmp_path / "out.json")])
    with pytest.raises(ConfigError, match="needs two paths"):
        run(["convert-format", str(folder)])


def test_files_are_joined_and_a_part_held_out(tmp_path: Path) -> None:
    for name in ("a", "b"):
        rows = [NEW | {"id": f"{name}{number}", "question": f"Which {name} {number}?"} for number in range(50)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    both = [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]
    run(["convert-format", *both, str(tmp_path / "all.json")])
    assert len(read_items(tmp_path / "all.json").items) == 100
    run(["convert-format", *both, str(tmp_path / "set"), "--validation-share", "0.2"])
    train, validation = (read_items(tmp_path / "set" / f"{part}.jsonl").items for part in ("train", "validation"))
    assert 10 <= len(validation) <= 30
    assert len(train) + len(validation) == 100
    for share, out, message in (
        ("1", "set", "needs a share from 0 up to 1"),
        ("0.2", "all.json", "needs to be a folder where IN is one, or a part is held out"),
        ("0.0001", "other", "needs to leave an item to each part of 100"),
    ):
        with pytest.raises(ConfigError, match=message):
            run(["convert-format", *both, str(tmp_path / out), "--validation-share", share])
    with pytest.raises(ConfigError, match="needs to be left out: IN has the parts train, validation"):
        run(["convert-format", str(tmp_path / "set"), str(tmp_path / "other"), "--validation-share", "0.2"])


@pytest.mark.parametrize("name", ["gen_multi_hop.py", "convert_format.py"])
def test_a_tool_prints_the_one_command_that_it_ends_in(name: str) -> None:
    given = [sys.executable, str(TOOLS / name), "a b", "--layout"]
    made = subprocess.run(given, env=os.environ | {"RETRO_PRINT_ONLY": "1"}, capture_output=True, text=True, check=True)
    command = "create" if name.startswith("gen") else "convert-format"
    assert made.stdout.strip().endswith(f"-m retro.recipes.multi_hop {command} 'a b' --layout")
