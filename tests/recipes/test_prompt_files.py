"""Prompts of recipes: what is filled in, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from retro.common.errors import ConfigError, DataError
from retro.recipes.prompt_files import filled, laid_over, require_places
from retro.recipes.self_rag.prompts import Texts


def test_what_is_filled_in_is_not_looked_at_again() -> None:
    assert filled("{question} of {answers}", {"question": "Why {answers}?", "answers": "a"}) == "Why {answers}? of a"


def test_other_braces_stay() -> None:
    assert filled('{"query": {text}} {other}', {"text": "x"}) == '{"query": x} {other}'


@pytest.mark.parametrize(("text", "good"), [("{a}", True), ("{a} {b}", True), ("{b}", False), ("{a} {c}", False)])
def test_a_prompt_has_the_places_that_it_needs_and_no_other(text: str, good: bool) -> None:
    if good:
        require_places("prompts.x", text, ("a",), optional=("b",))
        return
    need = r"the place \{a\} in it" if "a" not in text else r"no \{c\}, which nothing fills in; known: \{a\}, \{b\}"
    with pytest.raises(ConfigError, match=rf"prompts.x = .*: needs {need}"):
        require_places("prompts.x", text, ("a",), optional=("b",))


def test_a_file_laid_over_keeps_what_it_does_not_give() -> None:
    assert laid_over({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"c": 4}}) == {"a": {"b": 1, "c": 4}, "d": 3}


def test_a_file_with_an_unknown_place_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nversion: 1\nteacher: {utility: {prompt: 'How useful is {reply}?'}}\n")
    with pytest.raises(
        DataError, match=r"mine.yaml: teacher.utility.prompt = .*needs no \{reply\}, which nothing fills in"
    ):
        Texts.load(path)
