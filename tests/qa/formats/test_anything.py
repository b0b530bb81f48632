"""Whatever is in a file is converted or refused by name; nothing else is ever raised."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retro.common.errors import DataError
from retro.qa.fields import Fields
from retro.qa.formats.convert import convert_file
from retro.qa.formats.item import Options
from retro.qa.formats.registry import FORMATS, find_format
from retro.qa.formats.write import write_questions
from retro.qa.question_files import read_questions
from tests.qa.formats.test_registry import ALL


def keys_in(value: Any) -> Iterator[str]:
    """All keys and texts of a sample: what a file that is nearly right is made of."""
    if isinstance(value, dict):
        for key, one in value.items():
            yield key
            yield from keys_in(one)
    elif isinstance(value, list):
        for one in value:
            yield from keys_in(one)
    elif isinstance(value, str):
        yield value


def near(name: str) -> st.SearchStrategy[Any]:
    """JSON that is made of a format's own keys and texts."""
    words = st.sampled_from(sorted({*keys_in(ALL[name]), "", " "}))
    leaves = words | st.none() | st.booleans() | st.integers(-2, 2) | st.floats(allow_nan=False) | st.text(max_size=3)
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=5), max_leaves=12
    )


def spoiled(value: Any, path: list[int], other: Any) -> Any:
    """A sample in which one place, found by going down `path`, holds something else."""
    if not path or not isinstance(value, dict | list) or not value:
        return other
    if isinstance(value, list):
        place = path[0] % len(value)
        return [spoiled(one, path[1:], other) if number == place else one for number, one in enumerate(value)]
    chosen = sorted(value)[path[0] % len(value)]
    return {key: spoiled(one, path[1:], other) if key == chosen else one for key, one in value.items()}


def tried(name: str, content: Any, options: Options) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "in.json"
        path.write_text(json.dumps(content), encoding="utf-8")
        try:
            made = convert_file(path, find_format(name), options, skip_bad=True)
        except DataError:
            return
        write_questions(Path(folder) / "out.json", made.questions)
        again = read_questions(Path(folder) / "out.json", Fields(no_answer="none"))
    assert [(one.id, one.question) for one in again] == [(one.id, one.question) for one in made.questions]


@pytest.mark.parametrize("name", sorted(FORMATS))
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_a_sample_with_one_place_spoiled_is_converted_or_refused(name: str, data: st.DataObject) -> None:
    path = data.draw(st.lists(st.integers(0, 5), max_size=7))
    every = Options(turns="every") if "turns" in find_format(name).options else Options()
    tried(name, spoiled(ALL[name], path, data.draw(near(name))), data.draw(st.sampled_from([Options(), every])))


@pytest.mark.parametrize("name", sorted(FORMATS))
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_json_is_converted_or_refused(name: str, data: st.DataObject) -> None:
    tried(name, data.draw(near(name)), Options())
