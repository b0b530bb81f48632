from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retro.generate.detokenize import HeldText


def feed(stops: list[str], pieces: list[str]) -> tuple[list[str], bool]:
    """What became certain with each piece, and at last; and whether a stop string was found."""
    held = HeldText(stops)
    told = []
    for piece in pieces:
        told.append(held.add(piece))
        if held.stopped:
            return told, True
    return [*told, held.rest()], False


def test_a_stop_string_over_three_pieces_is_never_told() -> None:
    assert feed(["\nUser:"], ["Paris", "\n", "Us", "er: and"]) == (["Paris", "", "", ""], True)


def test_what_could_have_become_a_stop_string_is_told_when_it_did_not() -> None:
    assert feed(["\nUser:"], ["Paris", "\n", "Use", "ful"]) == (["Paris", "", "", "\nUseful", ""], False)
    assert feed(["\nUser:"], ["Paris", "\nUs"]) == (["Paris", "", "\nUs"], False)


def test_the_first_of_several_stop_strings_counts() -> None:
    assert feed(["cd", "bcx", "b"], ["abcd"]) == (["a"], True)
    assert feed(["cd"], ["abcdcd"]) == (["ab"], True)


def test_a_stop_string_that_begins_again_within_itself_is_found() -> None:
    assert feed(["aab"], ["a", "a", "a", "b"]) == (["", "", "a", ""], True)


def test_without_stop_strings_everything_is_told_at_once() -> None:
    assert feed([], ["a", "b"]) == (["a", "b", ""], False)


def test_a_stop_string_that_came_too_early_is_text_and_one_that_ends_later_counts() -> None:
    held = HeldText(["end", "endless"])
    assert held.add("an end", may_stop=False) == "an "
    assert held.add("less") == ""
    assert held.stopped
    early = HeldText(["end", "endless"])
    assert early.add("an end", may_stop=False) == "an "
    assert early.add(" and an end") == "end and an "
    assert early.stopped


@given(
    st.lists(st.text("ab\n", max_size=4), max_size=8),
    st.lists(st.text("ab\n", min_size=1, max_size=3), max_size=3),
)
def test_however_a_text_is_cut_it_ends_before_the_same_stop_string(pieces: list[str], stops: list[str]) -> None:
    text = "".join(pieces)
    told, stopped = feed(stops, pieces)
    # The stop string that is complete first ends the text: walk through its letters.
    ends = [len(text[:end]) for end in range(len(text) + 1) if any(text[:end].endswith(stop) for stop in stops)]
    assert stopped == bool(ends)
    if not stopped:
        assert "".join(told) == text
    else:
        assert not any(stop in "".join(told) for stop in stops)
        assert text.startswith("".join(told))


@pytest.mark.parametrize("stop", ["ab", "b"])
def test_nothing_told_is_ever_part_of_a_stop_string(stop: str) -> None:
    held = HeldText([stop])
    told = ""
    for letter in "aacab":
        told += held.add(letter)
    assert told == "aacab"[: "aacab".index(stop)]
