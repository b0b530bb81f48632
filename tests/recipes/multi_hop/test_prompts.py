"""What the teacher is asked: every place filled in, texts of one's own laid over, and what they lack named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from retro.common.errors import ConfigError, DataError
from retro.recipes.multi_hop.config import FLOWS, Flow
from retro.recipes.multi_hop.flows import STEPS
from retro.recipes.multi_hop.prompts import (
    Texts,
    answer_prompt,
    final_prompt,
    question_prompt,
    wanted_fields,
)

DRAWN = {"category": "City", "popularity_1": "2", "popularity_2": "5", "question_type": "yes_no"}
PLACE = re.compile(r"\{[a-z_0-9]+\}")


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("whole", [False, True])
def test_no_place_is_left_over_in_a_prompt(flow: Flow, whole: bool) -> None:
    texts = Texts.load(None)
    fields = wanted_fields(texts, flow, whole=whole)
    prompt = question_prompt(texts, flow, fields, DRAWN)
    assert PLACE.findall(prompt) == []
    assert re.findall(r"^\+ ([^:]+):", prompt, re.MULTILINE) == list(fields)
    assert '"City"' in prompt
    assert "a question that is answered yes or no" in prompt
    assert "it is at 2" in prompt
    assert ("at 5 on that scale" in prompt) == (flow != "attributes")


def test_the_older_form_always_has_its_answers() -> None:
    texts = Texts.load(None)
    assert wanted_fields(texts, "comparison", whole=False) == STEPS["comparison"].fields
    assert wanted_fields(texts, "entities", whole=False) == STEPS["entities"].creative


def test_questions_with_braces_are_asked_as_they_are() -> None:
    texts = Texts.load(None)
    prompt = answer_prompt(texts, "plain", "What is {question}?", "It\nis {paragraph}.")
    assert "Question: What is {question}?\n" in prompt
    # A paragraph is one line.
    assert "Paragraph: It is {paragraph}.\n" in prompt
    assert f'exactly "{texts.no_answer}"' in prompt
    facts = [("Who wrote {facts}?", "Ada."), ("When?", "In 1843.")]
    prompt = final_prompt(texts, "Who and when?", facts)
    assert "Facts:\n- Who wrote {facts}? Ada.\n- When? In 1843.\n\nQuestion: Who and when?\n" in prompt
    assert f'exactly "{texts.unknown}"' in prompt


def own(folder: Path, **sections: object) -> Path:
    path = folder / "texts.yaml"
    path.write_text(yaml.safe_dump({"name": "mine", "version": 3, **sections}))
    return path


def test_texts_of_ones_own_are_laid_over(tmp_path: Path) -> None:
    path = own(tmp_path, no_answer="Nothing is said.", create={"entities": {"steps": {"Entity 1": "any {category}"}}})
    texts = Texts.load(path)
    assert "Nothing is said." in answer_prompt(texts, "plain", "a", "b")
    prompt = question_prompt(texts, "entities", STEPS["entities"].fields, DRAWN)
    assert "+ Entity 1: any City\n" in prompt
    assert texts.identity["name"] == "mine"
    assert texts.identity["version"] == 3
    assert texts.identity["fingerprint"] != Texts.load(None).identity["fingerprint"]


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"answers": {"plain": "Read {paragraph}. {no_answer}"}}, "answers.plain = 'Read {paragraph}. {no_answer}'"),
        ({"answers": {"plain": "Read {paragraph}. {no_answer}"}}, "needs the place {question} in it"),
        ({"final_answer": "{question} {facts} {unknown} {x}"}, "needs no {x}, which nothing fills in"),
        ({"create": {"entities": {"task": "Make. {steps}"}}}, "create.entities.task = 'Make. {steps}': needs the pla"),
        ({"create": {"entities": {"steps": {"Entity 1": "a {color}"}}}}, "create.entities.steps.Entity 1 = 'a {color}"),
        ({"create": {"entities": {"steps": {"Entity 3": "a"}}}}, "create.entities.steps = 'Entity 3': needs a text fo"),
        ({"create": {"entities": {"task": "{category}:\n+ Category: it"}}}, "or a line that begins with '+ Entity 1:'"),
        ({"create": {"other": {"task": "a"}}}, "create.other"),
        ({"no_answer": ""}, "no_answer"),
    ],
)
def test_texts_that_lack_something_are_refused(tmp_path: Path, sections: dict[str, object], words: str) -> None:
    with pytest.raises(DataError) as caught:
        Texts.load(own(tmp_path, **sections))
    assert words in str(caught.value)
    assert "retro/recipes/multi_hop/prompts.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("section", "name"), [("create", "comparison"), ("answers", "arithmetic"), ("question_types", "wh")]
)
def test_a_file_in_place_of_all_texts_needs_all_of_them(section: str, name: str) -> None:
    from retro.common.config import config_json
    from retro.recipes.multi_hop.prompts import Texts

    data = config_json(Texts.load(None))
    del data[section][name]
    with pytest.raises(ConfigError, match=f"{section}.*{name}"):
        Texts(**data)


def test_a_task_may_write_its_lines_itself(tmp_path: Path) -> None:
    creative = "\n".join(f"+ {name}: something" for name in STEPS["entities"].creative)
    texts = Texts.load(own(tmp_path, create={"entities": {"task": f"Of {{category}}:\n{creative}"}}))
    assert wanted_fields(texts, "entities", whole=False) == STEPS["entities"].creative
    assert question_prompt(texts, "entities", (), DRAWN) == f"Of City:\n{creative}"
    with pytest.raises(ConfigError, match=r"needs a line that begins with '\+ Reasoning 1:', or create\.re_generate_"):
        wanted_fields(texts, "entities", whole=True)
    texts = Texts.load(own(tmp_path, create={"entities": {"task": f"Of {{category}}:\n{creative}\n+ Answer 1: a"}}))
    with pytest.raises(ConfigError, match=r"needs a line that begins with '\+ Reasoning 1:'"):
        wanted_fields(texts, "entities", whole=False)
