"""Independent cropping, worked by hand."""

from __future__ import annotations

import pytest

from retro.recipes.dense_retriever.training.crops import crop_pair, generator, span, without


def test_a_crop_has_a_share_of_the_words_between_the_two_and_lies_within() -> None:
    # 20 words; shares .05 + .45 u: u = 0 is 1 word, u = 1 would be 10.
    assert span(20, 0.05, 0.5, (0.0, 0.0)) == (0, 1)
    assert span(20, 0.05, 0.5, (0.999, 0.999)) == (10, 20)
    # u = .5: .275 of 20 is 5.5, rounded to 6; places 0 to 14, and .5 of 15 is 7.
    assert span(20, 0.05, 0.5, (0.5, 0.5)) == (7, 13)


def test_a_crop_of_a_short_text_has_one_word_at_least() -> None:
    assert span(1, 0.05, 0.5, (0.0, 0.9)) == (0, 1)
    assert span(3, 0.05, 0.5, (0.0, 0.9)) == (2, 3)


def test_words_whose_draw_is_below_the_chance_are_left_out() -> None:
    assert without(["a", "b", "c"], 0.1, [0.05, 0.1, 0.9]) == ["b", "c"]


def test_of_a_crop_that_loses_all_words_the_first_stays() -> None:
    assert without(["a", "b"], 0.9, [0.1, 0.2]) == ["a"]


def test_crops_of_a_text_depend_on_seed_epoch_and_item_alone() -> None:
    text = " ".join(f"w{number}" for number in range(100))
    found = [crop_pair(text, 0.05, 0.5, 0.1, generator(708, epoch, 3)) for epoch in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    assert found[0][0] != found[0][1]
    for part in found[0]:
        numbers = [int(word[1:]) for word in part.split()]
        assert numbers == sorted(numbers) and 1 <= len(numbers) <= 50
        assert numbers[-1] - numbers[0] < 50


def test_a_text_without_words_has_no_crop() -> None:
    with pytest.raises(ValueError, match="without words"):
        crop_pair(" ", 0.05, 0.5, 0.1, generator(0))
