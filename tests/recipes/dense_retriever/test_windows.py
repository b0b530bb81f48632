"""Which windows a document is cut into: by hand, and that they cover it whatever its length and tokenizer."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from retro.common.errors import ConfigError, DataError
from retro.recipes.dense_retriever.data.segments_config import SegmentsConfig
from retro.recipes.dense_retriever.data.windows import (
    characters,
    cut_to,
    length_unit,
    token_starts,
    window_text,
    windows,
    word_starts,
)


def spans(tokens: int, window: int, step: int, *, whole: bool = True) -> list[tuple[int, int]]:
    return [(one.start, one.stop) for one in windows(tokens, window, step, whole_last=whole)]


@pytest.mark.parametrize(
    ("tokens", "window", "step", "whole", "rest"),
    [
        (0, 4, 2, [], []),
        (1, 4, 2, [(0, 1)], [(0, 1)]),
        (4, 4, 2, [(0, 4)], [(0, 4)]),
        (5, 4, 2, [(0, 4), (1, 5)], [(0, 4), (2, 5)]),
        (6, 4, 2, [(0, 4), (2, 6)], [(0, 4), (2, 6)]),
        (7, 4, 2, [(0, 4), (2, 6), (3, 7)], [(0, 4), (2, 6), (4, 7)]),
        (288, 288, 64, [(0, 288)], [(0, 288)]),
        (289, 288, 64, [(0, 288), (1, 289)], [(0, 288), (64, 289)]),
        (416, 288, 64, [(0, 288), (64, 352), (128, 416)], [(0, 288), (64, 352), (128, 416)]),
        (513, 512, 512, [(0, 512), (1, 513)], [(0, 512), (512, 513)]),
        (1024, 512, 512, [(0, 512), (512, 1024)], [(0, 512), (512, 1024)]),
    ],
)
def test_windows_by_hand(
    tokens: int, window: int, step: int, whole: list[tuple[int, int]], rest: list[tuple[int, int]]
) -> None:
    assert spans(tokens, window, step) == whole
    assert spans(tokens, window, step, whole=False) == rest


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, int, int, bool]:
    window = draw(st.integers(1, 40))
    return draw(st.integers(0, 400)), window, draw(st.integers(1, window)), draw(st.booleans())


@given(shapes())
def test_windows_cover_a_document_and_none_is_within_another(shape: tuple[int, int, int, bool]) -> None:
    tokens, window, step, whole = shape
    found = spans(tokens, window, step, whole=whole)
    assert {token for start, end in found for token in range(start, end)} == set(range(tokens))
    # Both ends grow: so no window holds another.
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in itertools.pairwise(found))
    assert all(0 < end - start <= window for start, end in found)
    assert len(found) == (0 if not tokens else 1 + max(0, -(-(tokens - window) // step)))
    if whole and tokens >= window:
        assert {end - start for start, end in found} == {window}
    assert [start for start, _ in found[:-1]] == list(range(0, step * (len(found) - 1), step))


@pytest.mark.parametrize("step", [0, -1, 5])
def test_a_step_that_would_lose_text_is_refused(step: int) -> None:
    with pytest.raises(ValueError, match="a step from 1 to 4"):
        spans(9, 4, step)


def test_settings_that_would_lose_text_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"SegmentsConfig.step = 65: needs at most window = 64"):
        SegmentsConfig(window=64, step=65)
    two = [{"name": "a", "path": "x"}, {"name": "a", "path": "y"}]
    with pytest.raises(ConfigError, match="a name of its own"):
        SegmentsConfig(sources=two)


def test_words_are_what_white_space_parts() -> None:
    text = "  one\ttwo\n\nthree "
    starts = word_starts(text)
    assert starts.tolist() == [2, 6, 11]
    assert [window_text(text, starts, one) for one in windows(3, 2, 1)] == ["one\ttwo", "two\n\nthree"]
    assert cut_to(text, starts, 2) == "one\ttwo"
    assert cut_to(text, starts, 3) == text


def byte_level(folder: Path) -> Path:
    """A tokenizer whose tokens are bytes: some characters have three or four."""
    model = Tokenizer(
        models.BPE({letter: n for n, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, [])
    )
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    path = folder / "tokenizer.json"
    model.save(str(path))
    return path


@pytest.fixture(scope="module")
def bytes_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return byte_level(tmp_path_factory.mktemp("tokenizer"))


@given(text=st.text(max_size=60), window=st.integers(1, 9), step=st.integers(1, 9), whole=st.booleans())
@pytest.mark.parametrize("by_bytes", [False, True])
def test_every_character_of_a_document_is_in_a_segment(
    by_bytes: bool, text: str, window: int, step: int, whole: bool, bytes_file: Path
) -> None:
    starts = token_starts(bytes_file if by_bytes else None)(text)
    step = min(step, window)
    found = list(windows(len(starts), window, step, whole_last=whole))
    covered = {place for one in found for place in characters(len(text), starts, one)}
    assert covered == (set(range(len(text))) if len(starts) else set())
    assert len(starts) or not text.strip()
    if step == window and not whole:
        # Without overlap each character is in one of them.
        joined = "".join(window_text(text, starts, one) for one in found)
        assert re.sub(r"\s", "", joined) == re.sub(r"\s", "", text)


def test_parts_of_a_character_begin_where_it_begins(bytes_file: Path) -> None:
    starts = token_starts(bytes_file)("a€b")
    assert starts.tolist() == [0, 1, 1, 1, 2]
    texts = [window_text("a€b", starts, one) for one in windows(5, 2, 2)]
    # A window that ends within a character leaves it to the next one, which has it whole.
    assert texts == ["a", "€", "€b"]


def test_a_tokenizer_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match=r"is not a tokenizer\.json"):
        token_starts(tmp_path / "t.json")
    with pytest.raises(DataError, match=r"no such tokenizer\.json"):
        length_unit(tmp_path / "none.json")
    assert length_unit(None) == "words"
    assert len(length_unit(tmp_path / "t.json")) == 64


def test_nothing_has_no_tokens() -> None:
    assert word_starts(" \n").tolist() == []
    assert np.issubdtype(word_starts("").dtype, np.int64)
