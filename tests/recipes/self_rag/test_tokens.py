"""Reflection tokens: the exact strings, segments of published data, and what an answer says without them."""

from __future__ import annotations

import pytest

from retro.common.errors import ConfigError
from retro.qa.question import Context, Segment
from retro.qa.segments import encode_segments
from retro.recipes.self_rag.tokens import (
    FAMILIES,
    TOKENS,
    Vocabulary,
    clean_text,
    passage_text,
    segments_of,
)
from tests.generate.fake import LetterTokenizer
from tests.recipes.self_rag.fake import ReflectionTokenizer


def test_the_fifteen_strings() -> None:
    assert TOKENS == (
        "[No Retrieval]", "[Retrieval]", "[Continue to Use Evidence]", "[Irrelevant]", "[Relevant]",
        "[Fully supported]", "[Partially supported]", "[No support / Contradictory]", "[Utility:1]", "[Utility:2]",
        "[Utility:3]", "[Utility:4]", "[Utility:5]", "<paragraph>", "</paragraph>",
    )  # fmt: skip
    assert set(FAMILIES) == {"retrieval", "multi_retrieval", "relevance", "groundness", "utility"}


PUBLISHED = (
    "[Retrieval]<paragraph>one\ntext</paragraph>[Relevant]first.[Fully supported]"
    "[Retrieval]<paragraph>two</paragraph>[Irrelevant]second.[Utility:4]"
)


def test_every_passage_is_masked_by_itself_and_its_marks_are_learned() -> None:
    found = segments_of(PUBLISHED)
    read = [one.text for one in found if not one.learn]
    assert read == ["one\ntext", "two"]
    ids, learned = encode_segments(found, ReflectionTokenizer())
    spelled = ["x" if flag else "." for flag in learned]
    # [Retrieval]<paragraph>, 8 letters read, </paragraph>[Relevant], 6 letters,
    # [Fully supported][Retrieval]<paragraph>, 3 letters read, </paragraph>[Irrelevant], 7 letters, [Utility:4].
    assert "".join(spelled) == "xx" + "." * 8 + "xx" + "x" * 6 + "xxx" + "..." + "xx" + "x" * 7 + "x"
    assert len(ids) == len(learned)


def test_a_token_that_a_passage_spells_is_text() -> None:
    found = segments_of("<paragraph>say [Relevant] now</paragraph>[Relevant]yes")
    assert [one.text for one in found if one.text] == ["say [Relevant] now", "yes"]
    assert found[1] == Segment(text="say [Relevant] now", learn=False)


def test_a_passage_that_never_ends_is_learned_as_it_is_written() -> None:
    found = segments_of("[Retrieval]<paragraph>one [Relevant]yes")
    assert all(one.learn for one in found)
    assert [one.token for one in found if one.token] == ["[Retrieval]", "<paragraph>", "[Relevant]"]


@pytest.mark.parametrize(
    ("output", "text"),
    [
        (PUBLISHED, "first. second."),
        ("[No Retrieval]It is so.[Utility:5]", "It is so."),
        ("[No Retrieval] It is. [Continue to Use Evidence] So.", "It is. So."),
        ("[Utility:5]", ""),
        ("", ""),
        ("plain", "plain"),
    ],
)
def test_what_an_answer_says(output: str, text: str) -> None:
    assert clean_text(segments_of(output)) == text


def test_a_title_has_a_line_of_its_own_if_there_is_one() -> None:
    assert passage_text(Context(" Rome ", "A city.")) == "Rome \nA city."
    assert passage_text(Context("", " A city. ")) == "A city."


def test_a_tokenizer_without_the_tokens_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'\[No Retrieval\]': needs a tokenizer that has this token"):
        Vocabulary.of(LetterTokenizer())
