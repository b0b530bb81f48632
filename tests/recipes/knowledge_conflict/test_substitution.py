"""Answers in passages replaced by others, and the passages that have none."""

from __future__ import annotations

import itertools
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retro.common.errors import ConfigError, DataError, DependencyError
from retro.qa.question import Context
from retro.recipes.knowledge_conflict.contexts import irrelevant_passages, without_answers
from retro.recipes.knowledge_conflict.entity_types import answer_type, open_tagger, read_lists
from retro.recipes.knowledge_conflict.substitution import Pool, generator_of, mentions, other_answers, substituted


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("Yes", "yes_no"),
        ("false.", "yes_no"),
        ("1947", "year"),
        ("9999", "number"),
        ("4 July 1776", "date"),
        ("December 19, 1998", "date"),
        ("May", "name"),
        ("August Wilson", "name"),
        ("March of the Penguins", "name"),
        ("Gerard Marenghi (born January 24, 1920)", "phrase"),
        ("2020-05-01", "date"),
        ("3.5 million", "number"),
        ("$12", "number"),
        ("5 apples", "number"),
        ("999 BC", "number"),
        ("21 Savage", "name"),
        ("10 Downing Street", "name"),
        ("500 Days of Summer", "name"),
        ("twenty-one", "number"),
        ("Ada Lovelace", "name"),
        ("The Lord of the Rings", "name"),
        ("UK", "name"),
        ("the blue whale", "phrase"),
        ("it", "phrase"),
    ],
)
def test_a_type_follows_from_the_rules(answer: str, kind: str) -> None:
    assert answer_type(answer) == kind


def test_a_list_goes_before_a_tagger_and_the_rules_before_both() -> None:
    lists = {"person": frozenset(["ada lovelace", "1947"])}
    tagged: list[str] = []

    def tag(answer: str) -> str:
        tagged.append(answer)
        return "place" if answer == "Paris" else ""

    assert answer_type("Ada Lovelace", lists, tag) == "person"
    assert answer_type("1947", lists, tag) == "year"
    assert answer_type("Paris", lists, tag) == "place"
    assert answer_type("the sea", lists, tag) == "phrase"
    assert tagged == ["Paris", "the sea"]


def test_lists_of_types_are_read(tmp_path: Path) -> None:
    path = tmp_path / "types.yaml"
    path.write_text("person: [Ada Lovelace]\nplace: [The Hague]\n")
    assert read_lists(path) == {"person": frozenset(["ada lovelace"]), "place": frozenset(["hague"])}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("person: Ada", "needed is: a valid list"),
        ("{}", "holds no type"),
        ("person: [Ada]\nplace: [Ada]", "has 'ada' under 'person' and 'place'. Leave it in one of them"),
    ],
)
def test_a_list_that_is_none_is_named(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "types.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match=re.escape(problem)):
        read_lists(path)


def test_a_tagger_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(DependencyError, match=r"spacy: is not installed\. Run `pip install spacy`"):
        open_tagger("en_core_web_sm")


def test_a_tagger_says_the_label_of_a_whole_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    class Entity:
        text, label_ = "Ada Lovelace", "PERSON"

    class Document:
        ents = (Entity(),)

    class Tagger(ModuleType):
        @staticmethod
        def load(name: str) -> object:
            if name != "known":
                raise OSError("no such model")
            return lambda text: Document()

    monkeypatch.setitem(sys.modules, "spacy", Tagger("spacy"))
    tag = open_tagger("known")
    assert (tag("Ada Lovelace"), tag("Ada Lovelace of London")) == ("person", "")
    with pytest.raises(ConfigError, match=r"sets.spacy = 'other': needs the name of an installed spaCy model"):
        open_tagger("other")


PASSAGES = [Context("The Beatles", "In 1970 the  Beatles parted. The Beatles had four members; beatlesque is a word.")]


def test_every_name_of_the_answer_is_replaced_and_recorded() -> None:
    made, changes, problem = substituted(PASSAGES, ["The Beatles", "Beatles"], "Queen")
    assert problem == ""
    # The article is part of the name, and goes with it.
    assert made == (Context("Queen", "In 1970 Queen parted. Queen had four members; beatlesque is a word."),)
    assert changes == [{"passage": 0, "from": "Beatles", "to": "Queen", "times": 3}]


@pytest.mark.parametrize(
    ("text", "answer", "other", "made"),
    [
        # Short names, and names of one word, are not the common words that have their letters.
        ("He told us that the US won. It was in us.", "US", "Peru", "He told us that the Peru won. It was in us."),
        ("King wrote It and sold it.", "It", "Carrie", "King wrote Carrie and sold it."),
        ("In May it may rain.", "May", "June", "In June it may rain."),
        ("Rose rose. ROSE!", "Rose", "Mary", "Mary rose. Mary!"),
        ("Tea or tea, no TEA.", "tea", "rum", "rum or rum, no TEA."),
        ("BLUE whale, Blue Whale", "blue whale", "sea", "sea, sea"),
        # An article of the name goes with it; another one stays, and takes none beside it.
        ("The Beatles met the Beatles.", "The Beatles", "The Who", "The Who met the Who."),
        ("A Beatles fan met the Beatles.", "The Beatles", "Queen", "A Queen fan met Queen."),
        ("The Beatles did.", "The Beatles", "queens", "Queens did."),
        ("They saw a blue whale.", "the blue whale", "the sea", "They saw a sea."),
        ("In the US of old.", "US", "The Hague", "In the Hague of old."),
    ],
)
def test_a_name_is_replaced_in_its_case_and_with_its_article(text: str, answer: str, other: str, made: str) -> None:
    found, _, problem = substituted([Context("", text)], [answer], other)
    assert (found[0].text, problem) == (made, "")


def test_a_common_word_is_no_mention_of_a_name() -> None:
    assert not mentions([Context("", "They told us that it may rain.")], ["US", "It", "May"])
    assert mentions([Context("", "They told us: the U.S. won.")], ["US"])
    assert mentions([Context("", "It is true, NO doubt.")], ["True"]) and mentions([Context("", "NO doubt")], ["no"])
    left, removed = without_answers([Context("", "They told us. The US won.")], ["US"])
    assert (left[0].text, len(removed)) == ("They told us.", 1)


def test_the_longest_name_is_replaced_as_a_whole_and_nothing_twice() -> None:
    passages = [Context("", "Ada, Ada Lovelace and Lovelace")]
    made, changes, problem = substituted(passages, ["Ada", "Ada Lovelace", "Lovelace"], "Mary Ada-Lou")
    assert made[0].text == "Mary Ada-Lou, Mary Ada-Lou and Mary Ada-Lou"
    assert [(one["from"], one["times"]) for one in changes] == [("Ada", 1), ("Ada Lovelace", 1), ("Lovelace", 1)]
    assert problem == ""


@pytest.mark.parametrize(
    ("text", "answers", "other", "problem"),
    [
        ("Nothing of it.", ["Ada"], "Mary", "answer_not_in_passages"),
        # Normalized, both are one answer; as written only one of them is.
        ("The U.S. and US policy", ["US"], "Peru", "original_answer_remains"),
        ("Ada did", ["Ada"], "ada", "answer_not_in_passages"),
        # Normalized, Mary's is the word marys.
        ("It is Ada's.", ["Ada"], "Mary", "substitute_is_missing"),
    ],
)
def test_what_cannot_be_replaced_is_named(text: str, answers: list[str], other: str, problem: str) -> None:
    assert substituted([Context("", text)], answers, other)[2] == problem


WORDS = st.sampled_from(["Ada", "ada", "Lovelace", "Mary", "wrote", "the", "notes", "U.S.", "1815", "Adam", ","])


@given(st.lists(WORDS, min_size=1, max_size=20), st.sampled_from(["Mary", "Zoe Lou", "1999"]))
def test_what_is_replaced_is_gone_and_nothing_else_is_changed(words: list[str], other: str) -> None:
    passages, answers = [Context("", " ".join(words))], ["Ada", "Ada Lovelace"]
    made, changes, problem = substituted(passages, answers, other)
    if problem:
        # What only the comparison takes off may part the words of a name.
        assert problem in ("answer_not_in_passages", "original_answer_remains")
        assert not mentions(passages, ["Ada"]) or any(one in words for one in ("the", ","))
        return
    assert not mentions(made, answers) and mentions(made, [other])
    # In lower case it is the name before the surname alone.
    whole = sum(pair == ("ada", "Lovelace") for pair in itertools.pairwise(words))
    assert sum(one["times"] for one in changes) == words.count("Ada") + whole
    kept = [word for word in words if word.lower() != "ada"]
    left = [word for word in made[0].text.replace(other, "").split() if word != "ada"] if other not in words else None
    # A surname goes with the name before it, and stays behind any other word.
    assert left is None or [w for w in left if w != "Lovelace"] == [w for w in kept if w != "Lovelace"]


def test_an_alias_takes_the_place_of_the_other_names_and_stays_right() -> None:
    passages = [Context("", "Lovelace wrote it, and Ada Lovelace knew it.")]
    made, changes, problem = substituted(passages, ["Ada Lovelace", "Lovelace"], "Ada Lovelace")
    assert (made[0].text, problem) == ("Ada Lovelace wrote it, and Ada Lovelace knew it.", "")
    assert changes == [{"passage": 0, "from": "Lovelace", "to": "Ada Lovelace", "times": 1}]


ANSWERS = ["Paris", "Rome", "paris", "1947", "1950", "yes", "the sea"]


def tried(answers: list[str], policy: str) -> list[str]:
    pool = Pool.of(ANSWERS, answer_type)
    return list(other_answers(answers, pool, policy, generator_of(1, "q")))  # type: ignore[arg-type]


def test_a_substitute_has_the_type_of_the_answer_or_under_type_swap_another() -> None:
    assert tried(["Oslo"], "corpus") in (["Paris", "Rome"], ["Rome", "Paris"])
    assert tried(["Paris"], "corpus") == ["Rome"]
    assert set(tried(["Paris"], "type_swap")) == {"1947", "1950", "the sea"}
    assert tried(["no"], "corpus") == ["yes"]
    assert tried(["Ada", "Lovelace", "Ada"], "alias") == ["Ada", "Lovelace"]
    assert tried(["4 July"], "corpus") == []


def test_a_substitute_is_alike_in_length_and_in_its_first_letter() -> None:
    answers = [
        "band",
        "a blue whale",
        "Old World fossils",
        "70 m and 90 m",
        "one of the very long ways to say it all now",
    ]
    pool = Pool.of(answers, answer_type)
    for one in ("rock", "the red sea"):
        assert sorted(other_answers([one], pool, "corpus", generator_of(1, "q"))) == ["a blue whale", "band"]
    assert answers[-1] not in other_answers(["Paris"], pool, "type_swap", generator_of(1, "q"))


def test_the_order_of_trials_depends_on_seed_and_question_alone() -> None:
    pool = Pool.of([f"Name{number}" for number in range(30)], answer_type)
    orders = [
        list(other_answers(["Oslo"], pool, "corpus", generator_of(seed, name)))
        for seed, name in ((1, "a"), (1, "a"), (2, "a"), (1, "b"))
    ]
    assert orders[0] == orders[1] != orders[2] != orders[3]
    assert sorted(orders[0]) == sorted(orders[2]) and len(set(orders[0])) == 30


def test_irrelevant_passages_are_of_another_question_and_have_no_answer() -> None:
    own, other, shared = Context("", "Ada here"), Context("", "Mary there"), Context("", "Jane")
    others = [[own, shared], [shared, other], [Context("", "Ada again"), Context("", "Zoe")]]
    draw = np.random.default_rng(0)
    assert irrelevant_passages(0, others, ["Ada"], 1, draw) in ((other,), (Context("", "Zoe"),))
    # Two are wanted; the passage that the question has itself, and the one with the answer, do not count.
    assert irrelevant_passages(0, others, ["Ada"], 2, draw) == ()


def test_sentences_with_an_answer_are_removed_and_recorded() -> None:
    passages = [Context("Ada", "She lived in London. Ada wrote notes. They are known."), Context("", "Ada.")]
    left, removed = without_answers(passages, ["Ada"])
    assert left == (Context("", "She lived in London. They are known."),)
    assert [(one["passage"], one["from"]) for one in removed] == [(0, "Ada wrote notes."), (0, "Ada"), (1, "Ada.")]
    assert not mentions(left, ["Ada"])
