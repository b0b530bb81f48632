"""What questions are made of: flows, filters, categories, draws, paragraphs of other items."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from retro.common.errors import ConfigError, DataError
from retro.qa.formats.item import BadItemError
from retro.recipes.multi_hop.categories import read_categories
from retro.recipes.multi_hop.config import CreateConfig
from retro.recipes.multi_hop.filters import key_of, named, require_good
from retro.recipes.multi_hop.flows import STEPS, Draft, Hop, draft_of, require_category
from retro.recipes.multi_hop.negatives import Owned, negatives_of
from retro.recipes.multi_hop.questions import specs_of

ALMA = Hop(
    entity="Alma Bridge", attribute="Length", question="How long is the Alma Bridge?", paragraph="Alma Bridge: 4."
)
BERN = Hop(entity="Bern Tower", attribute="Length", question="How long is the Bern Tower?", paragraph="Bern Tower: 3.")
DRAFT = Draft(
    question="Which is longer, the Alma Bridge or the Bern Tower?", hops=(ALMA, BERN), attributes=("Length", "Cost")
)


def test_the_flow_for_two_entities_has_sixteen_steps() -> None:
    # Two entities are one step, so there is a field more.
    assert len(STEPS["entities"].fields) == 17
    assert len(STEPS["attributes"].fields) == 17
    assert len(STEPS["comparison"].fields) == 12
    assert STEPS["entities"].creative == (
        "Category", "Entity 1", "Entity 2", "Common attributes", "Selected attribute", "Question 1", "Question 2",
        "Multi-hop question", "Paragraph 1", "Paragraph 2",
    )  # fmt: skip
    left = [one for one in STEPS["entities"].fields if one not in STEPS["entities"].creative]
    assert left == ["Reasoning 1", "Answer 1", "Reasoning 2", "Answer 2", "Summary", "Reasoning", "Final answer"]


def test_fields_become_a_question_with_answers() -> None:
    fields = {name: name.lower() for name in STEPS["entities"].fields} | {"Common attributes": "Length, Cost, Use."}
    draft = draft_of("entities", fields)
    assert draft.question == "multi-hop question"
    assert draft.hops[1] == Hop(
        entity="entity 2", attribute="selected attribute", question="question 2", paragraph="paragraph 2",
        long_answer="reasoning 2\nAnswer:answer 2",
    )  # fmt: skip
    assert draft.attributes == ("Length", "Cost", "Use")
    assert (draft.final_answer, draft.answer) == ("Summary:summary\nAnswer:final answer", "final answer")
    assert draft.reasoning == "reasoning"


def test_the_older_form_has_its_reasoning_for_a_summary() -> None:
    draft = draft_of("comparison", {name: name.lower() for name in STEPS["comparison"].fields})
    assert draft.final_answer == "Summary:reasoning\nAnswer:final answer"
    assert draft.hops[0].long_answer == "answer 1"


def test_without_answers_a_question_has_none() -> None:
    draft = draft_of("attributes", {name: name.lower() for name in STEPS["attributes"].creative})
    assert (draft.final_answer, draft.hops[0].long_answer) == ("", "")
    assert [one.attribute for one in draft.hops] == ["selected attribute 1", "selected attribute 2"]


def test_an_answer_with_a_marker_in_it_is_refused() -> None:
    fields = {name: name.lower() for name in STEPS["entities"].fields} | {"Answer 1": "Answer:4"}
    with pytest.raises(BadItemError, match="marker_in_text"):
        draft_of("entities", fields)


def test_another_category_is_refused() -> None:
    require_category("City in Asia", {"Category": "city in Asia."})
    require_category("City in Asia", {})
    with pytest.raises(BadItemError, match="has the category 'River', asked for was 'City in Asia'"):
        require_category("City in Asia", {"Category": "River"})


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("How big is New York?", {"New York"}),
        ("Is York or New York larger?", {"York", "New York"}),
        ("Is York older?", {"York"}),
        ("Is Yorkshire in New Yorkers' plans?", set()),
        ("What of the NEW-YORK?", set()),
        ("What of the new york!", {"New York"}),
    ],
)
def test_entities_are_found_as_whole_words_and_not_within_others(text: str, found: set[str]) -> None:
    assert named(text, ["York", "New York"]) == found


def test_a_good_question_passes() -> None:
    require_good(DRAFT)


def changed(**change: Any) -> Draft:
    """The draft with other fields, those of hops by `first__` and `second__`."""
    hops = [
        replace(
            hop, **{name.partition("__")[2]: value for name, value in change.items() if name.startswith(f"{which}__")}
        )
        for which, hop in (("first", ALMA), ("second", BERN))
    ]
    own = {name: value for name, value in change.items() if "__" not in name}
    return replace(DRAFT, hops=(hops[0], hops[1]), **own)


@pytest.mark.parametrize(
    ("draft", "reason"),
    [
        (changed(question="Which is longer, the Alma Bridge or the tower?"), "entity_not_in_question"),
        (changed(first__question="How long is that bridge?"), "entity_not_in_sub_question"),
        (
            changed(second__question="How long is the Bern Tower beside the Alma Bridge?"),
            "other_entity_in_sub_question",
        ),
        (changed(second__entity="the alma bridge"), "same_entities"),
        (changed(first__attribute="Height"), "attribute_not_listed"),
        (
            changed(second__entity="Alma Bridge", second__question="What did the Alma Bridge cost?"),
            "same_attributes",
        ),
        (
            changed(
                second__entity="Alma Bridge", second__attribute="Cost", second__question="How long is Alma Bridge?"
            ),
            "same_questions",
        ),
    ],
)
def test_a_question_that_fails_a_filter_is_refused_with_the_reason(draft: Draft, reason: str) -> None:
    with pytest.raises(BadItemError) as caught:
        require_good(draft)
    assert caught.value.reason == reason


def test_questions_are_equal_whatever_their_case_and_punctuation() -> None:
    assert key_of(DRAFT) == key_of(replace(DRAFT, question="which is longer, Alma Bridge or Bern Tower"))


def test_categories_are_read_with_commas_and_lines(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("City in  Asia, River ,\n\nLake,river\nSea\n")
    assert read_categories(tmp_path / "a.txt") == ["City in Asia", "River", "Lake", "Sea"]


def test_categories_of_yaml_are_a_list_or_sub_categories(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("City: [City in Asia, Port]\nLake:\nRiver:\n- River in Asia\n- Port\n")
    assert read_categories(tmp_path / "a.yaml") == ["City in Asia", "Port", "Lake", "River in Asia"]
    (tmp_path / "a.yaml").write_text("- City\n- Lake, small\n")
    assert read_categories(tmp_path / "a.yaml") == ["City", "Lake, small"]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.txt", " ,\n,", "has no category"),
        ("a.yaml", "- 3", "has 3 where a name should be"),
        ("a.yaml", "- [", "is not YAML"),
        ("a.txt", "x" * 201, "has a category of 201 characters"),
    ],
)
def test_a_file_of_categories_that_cannot_be_used_is_refused(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError) as caught:
        read_categories(tmp_path / name)
    assert words in str(caught.value)
    with pytest.raises(DataError, match="no such file of categories"):
        read_categories(tmp_path / "none.txt")


def test_draws_are_those_of_the_seed_and_within_bounds() -> None:
    config = CreateConfig(items_per_category=40, retries=2)
    specs = specs_of(config, ["City", "Lake"])
    assert specs == specs_of(config, ["City", "Lake"])
    assert specs != specs_of(config.model_copy(update={"seed": 1}), ["City", "Lake"])
    assert len(specs) == 2 * 2 * 40
    assert {one.popularity[0] for one in specs} == {one.popularity[1] for one in specs} == {1, 2, 3, 4, 5}
    assert {one.question_type for one in specs} == {"wh", "yes_no"}
    assert all(
        len(one.temperatures) == 3 and 0.7 <= min(one.temperatures) <= max(one.temperatures) <= 1 for one in specs
    )
    assert len({one.temperatures for one in specs}) > 100


def test_a_category_more_changes_nothing_about_the_others() -> None:
    config = CreateConfig(items_per_category=2)
    before = specs_of(config, ["City", "Lake"])
    after = [one for one in specs_of(config, ["Sea", "City", "Lake"]) if one.category != "Sea"]
    assert before == after


def test_some_of_all_questions_are_drawn() -> None:
    config = CreateConfig(items_per_category=3, items=5, flows=("entities",))
    chosen = specs_of(config, ["City", "Lake", "Sea"])
    assert len(chosen) == len({one.id for one in chosen}) == 5
    everything = specs_of(config.model_copy(update={"items": None}), ["City", "Lake", "Sea"])
    assert [one for one in everything if one in chosen] == chosen


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"temperature": (1.0, 0.7)}, "CreateConfig.temperature = (1.0, 0.7): needs the lower one first"),
        ({"temperature": (0.0, 0.7)}, "temperature"),
        ({"flows": ("entities", "entities")}, "CreateConfig.flows = ('entities', 'entities'): needs each of them once"),
        ({"question_types": ()}, "question_types"),
        ({"negative_share": 1.5}, "negative_share = 1.5"),
    ],
)
def test_settings_that_cannot_work_are_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        CreateConfig(**change)
    assert words in str(caught.value)


def owned(name: str, category: str, *entities: str, attribute: str = "Length") -> Owned:
    hops = [
        Hop(
            entity=one,
            attribute=attribute,
            question=f"{attribute} of {one}?",
            paragraph=f"{name}: {attribute} of {one}.",
        )
        for one in entities
    ]
    return Owned(id=name, category=category, draft=Draft(question=name, hops=(hops[0], hops[1])))


def test_the_paragraph_of_a_negative_is_that_of_another_item() -> None:
    items = [owned(f"i{n}", "City", f"A{n}", f"B{n}") for n in range(40)]
    made, without = negatives_of(items, items, 0.5, 1)
    assert (len(made), without) == (20, 0)
    assert {one.replaced for one in made} == {(0,), (1,), (0, 1)}
    for one in made:
        for place, (before, after) in enumerate(zip(one.of.draft.hops, one.draft.hops, strict=True)):
            assert after.question == before.question
            if place in one.replaced:
                assert after.paragraph.partition(":")[0] in one.taken_from
                assert after.paragraph.partition(":")[0] != one.of.id
            else:
                assert after.paragraph == before.paragraph
    assert negatives_of(items, items, 0.5, 1)[0] == made
    assert negatives_of(items, items, 0.5, 2)[0] != made


def test_paragraphs_of_the_same_category_come_first() -> None:
    items = [owned("i0", "City", "A", "B"), owned("i1", "Lake", "C", "D"), owned("i2", "City", "E", "F")]
    made, _ = negatives_of(items[:1], items, 1.0, 1)
    assert set(made[0].taken_from) == {"i2"}


def test_a_paragraph_that_could_answer_is_not_taken() -> None:
    same = [owned("i0", "City", "Ava", "Ava"), owned("i1", "City", "Ava", "Ava")]
    made, without = negatives_of(same[:1], same, 1.0, 1)
    assert (made, without) == ([], 1)
    other = [same[0], owned("i1", "City", "Ava", "Ava", attribute="Cost")]
    assert negatives_of(other[:1], other, 1.0, 1)[0][0].taken_from[0] == "i1"
    # Bo's paragraph speaks of Ava.
    speaks = [same[0], owned("i1", "City", "Bo near Ava", "Cy near Ava")]
    assert negatives_of(speaks[:1], speaks, 1.0, 1) == ([], 1)
