"""The critic's training data: a teacher's labels, published labels, and whatever cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from retro.common.errors import ArtifactError, ConfigError, DataError
from retro.recipes.base import RECIPES, run_recipe
from retro.recipes.self_rag.critic_data import balanced, held_out, question_of_item, read_labelled
from retro.recipes.self_rag.prompts import (
    Texts,
    Variant,
    critic_input,
    instruction_text,
    label_of_reply,
    teacher_prompt,
)
from retro.recipes.self_rag.tokens import FAMILIES, FULLY, RELEVANT, TOKENS
from retro.run.config import RunConfig
from tests.recipes.self_rag import world


def run(folder: Path, items: list[dict[str, Any]], **settings: Any) -> Path:
    """The step, with the world's teacher."""
    texts = folder / "texts.yaml"
    texts.write_text(yaml.safe_dump(world.TEXTS))
    (folder / "items.jsonl").write_text("".join(json.dumps(one) + "\n" for one in items))
    teacher = {"kind": "script", "function": "tests.recipes.self_rag.world:teacher"}
    critic = {"items": str(folder / "items.jsonl"), "teacher": teacher, "drop_relevant": 0.0} | settings
    config = RunConfig(run_dir=folder / "run", recipe={"self_rag": {"critic": critic, "prompts": str(texts)}})
    run_recipe(RECIPES.find("self_rag", "recipe"), config, "critic_data")
    return folder / "run" / "recipe_self_rag" / "critic_data"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_labels_become_items_in_the_published_form_and_samples(tmp_path: Path) -> None:
    out = run(tmp_path, list(world.critic_items(200, 1)))
    train, dev = lines(out / "train.jsonl"), lines(out / "dev.jsonl")
    counts = json.loads((out / "manifest.json").read_text())["counts"]
    assert len(train) + len(dev) == 200 - sum(counts["dropped"].values())
    assert len(dev) == (len(train) + len(dev)) // 10
    assert set(train[0]) == {"id", "task", "instruction", "input", "output"}
    assert all(one["output"] in FAMILIES[one["task"]] for one in train)
    sample = lines(out / "train_samples.jsonl")[0]
    assert sample["question"] == f"{train[0]['instruction']}\n\n### Input:\n{train[0]['input']}"
    assert sample["segments"] == [{"token": train[0]["output"]}]
    raw = lines(out / "raw.jsonl")[0]
    assert set(raw) == {"input", "task", "decision_token", "raw_output"}
    assert {"instruction", "evidence", "preceding_sentences", "output", "q_id"} == set(raw["input"])
    assert sum(sum(one.values()) for one in counts["labels"].values()) == len(train)


def test_replies_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    items = list(world.critic_items(20, 1))
    items[3] = {"task": "retrieval", "instruction": "tell e0 r0"}
    out = run(tmp_path, items)
    counts = json.loads((out / "manifest.json").read_text())["counts"]
    assert counts["dropped"] == {"retrieval: a reply without a label": 1}
    assert sum(one["decision_token"] is None for one in lines(out / "raw.jsonl")) == 1


def test_a_second_run_asks_for_nothing(tmp_path: Path) -> None:
    items = list(world.critic_items(30, 1))
    first = (run(tmp_path, items) / "train.jsonl").read_bytes()
    assert (run(tmp_path, items) / "train.jsonl").read_bytes() == first
    with pytest.raises(ArtifactError, match="retro recipe self_rag run CONFIG critic_data"):
        run(tmp_path, items, seed=5)


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ({"task": "groundness", "instruction": "a", "output": "b"}, "line 1 (item 0) has no 'evidence'"),
        ({"task": "relevence", "instruction": "a"}, "line 1 (item 0) has the task 'relevence'"),
        ({"task": "retrieval"}, "line 1 (item 0) has no 'instruction'"),
        ({"task": "retrieval", "instruction": "a", "output": 3}, "line 1 (item 0) has '3' in 'output'"),
    ],
)
def test_items_that_lack_something_are_named(tmp_path: Path, item: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError) as caught:
        run(tmp_path, [item])
    assert words in str(caught.value)


def test_without_items_the_step_says_what_it_needs(tmp_path: Path) -> None:
    config = RunConfig(run_dir=tmp_path / "run")
    with pytest.raises(ConfigError, match=r"critic\.items = None: needs items to be labelled"):
        run_recipe(RECIPES.find("self_rag", "recipe"), config, "critic_data")


def test_published_labels_are_read_in_their_own_spelling(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    item = {"task": "groudness", "instruction": "a", "input": "b", "output": f" {FULLY} "}
    path.write_text(json.dumps(item) + "\n")
    [found] = read_labelled(path)
    assert (found["task"], found["output"]) == ("groundness", FULLY)
    path.write_text(json.dumps(item | {"output": "[Sort of]"}) + "\n")
    with pytest.raises(DataError, match=r"line 1 \(item 0\) has the label '\[Sort of\]'.*\[Partially supported\]"):
        read_labelled(path)


def test_every_variant_of_a_prompt_is_known(tmp_path: Path) -> None:
    assert question_of_item({"instruction": "Do.", "input": "this"}) == "Do.\n\n### Input:\nthis"
    assert question_of_item({"instruction": "Do.", "input": ""}) == "Do."
    assert question_of_item({"instruction": "Do.", "paragraph": "p"}) == "Do.\n\n### Context:\np"
    assert question_of_item({"instruction": "Do.", "separated": "s"}) == "Do.\n\n### Separated Context:\ns"
    assert {instruction_text("a", "b", variant) for variant in get_args(Variant)} == {
        "a", "a\n\n### Input:\nb", "a\n\n### Context:\nb", "a\n\n### Separated Context:\nb",
    }  # fmt: skip
    with pytest.raises(ValueError, match="variant 'other'"):
        instruction_text("a", "b", "other")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reply", "label"),
    [
        ("It is about facts.\nAnswer: yes", "[Retrieval]"),
        ("answer: **No**.", "[No Retrieval]"),
        ("Answer: no. But then: Answer: yes", "[Retrieval]"),
        ("yes", "[Retrieval]"),
        ("Yes.", "[Retrieval]"),
        ("yes and no", None),
        ("Answer: perhaps", None),
        ("", None),
    ],
)
def test_a_reply_is_a_label_or_none(reply: str, label: str | None) -> None:
    assert label_of_reply(Texts.load(None), "retrieval", reply) == label


def test_what_is_filled_into_a_prompt_is_never_looked_at_again() -> None:
    item = {"instruction": "say {output}", "output": "{evidence}", "evidence": "E"}
    prompt = teacher_prompt(Texts.load(None), "groundness", item)
    assert "Instruction: say {output}\n" in prompt
    assert "Sentence: {evidence}\n" in prompt
    assert "Written before: -\n" in prompt


def test_the_shipped_texts_have_every_family_and_headings_only_for_what_is_there() -> None:
    texts = Texts.load(None)
    assert {token for one in texts.teacher.values() for token in one.labels.values()} == set(TOKENS[:13])
    shown = critic_input(texts, {"instruction": "a", "output": "b", "evidence": " "})
    assert shown == "Task instruction: a\nOutput: b"


def test_texts_of_ones_own_need_a_name_and_every_label(tmp_path: Path) -> None:
    path = tmp_path / "texts.yaml"
    path.write_text("critic: {retrieval: short}")
    with pytest.raises(DataError, match="has no 'name'"):
        Texts.load(path)
    path.write_text("name: mine\nversion: 1\nteacher: {retrieval: {labels: {'yes': '[Relevant]'}}}")
    with pytest.raises(DataError, match=r"teacher\.retrieval\.labels"):
        Texts.load(path)
    path.write_text("name: mine\nversion: 2\ncritic: {retrieval: short}")
    found = Texts.load(path)
    assert (found.critic["retrieval"], found.critic["utility"]) == ("short", Texts.load(None).critic["utility"])


def test_relevant_items_are_thinned_and_a_part_is_held_out() -> None:
    items: list[dict[str, Any]] = [{"output": RELEVANT if place % 2 else FULLY, "n": place} for place in range(1000)]
    kept = balanced(items, 0.3, 1)
    assert sum(one["output"] == FULLY for one in kept) == 500
    assert 320 < sum(one["output"] == RELEVANT for one in kept) < 380
    train, dev = held_out(items, 1500, 1)
    assert (len(train), len(dev)) == (900, 100)
    assert sorted(one["n"] for one in train + dev) == list(range(1000))
    assert held_out(items[:5], 1500, 1)[1] == []
