"""Files of prompts: laid over the shipped one, with places that somebody fills."""

from __future__ import annotations

import pytest

from retro.common.errors import ConfigError
from retro.recipes.prompt_files import filled, require_places


def test_what_is_filled_in_is_not_filled_in_again() -> None:
    assert filled("{a} and {b}, {c}", {"a": "{b}", "b": "{a}"}) == "{b} and {a}, {c}"
    assert filled("{a}", {}) == "{a}"


def test_braces_that_are_no_places_are_left_alone() -> None:
    require_places("x", 'Reply with {"query": 1} for {question}', ("question",))
    assert filled('{"query": {question}}', {"question": "Why?"}) == '{"query": Why?}'


def test_a_place_that_is_missing_is_named() -> None:
    with pytest.raises(ConfigError, match=r"ask = 'Say it of \{a\}': needs the place \{b\} in it"):
        require_places("ask", "Say it of {a}", ("a", "b"))


def test_a_place_that_nothing_fills_is_named() -> None:
    with pytest.raises(ConfigError, match=r"needs no \{questoin\}, which nothing fills in; known: \{question\}, \{b\}"):
        require_places("ask", "{question} {questoin}", ("question",), ("b",))
