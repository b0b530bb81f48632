from __future__ import annotations

import numpy as np
import pytest

from retro.sft.blend import Blend


def test_two_equal_sets_take_turns() -> None:
    sets, _ = Blend([5, 5], [1.0, 1.0], seed=1).draw(np.arange(6))
    assert sets.tolist() == [0, 1, 0, 1, 0, 1]


def test_three_to_one_is_three_of_four() -> None:
    blend = Blend([100, 100], [3.0, 1.0], seed=1)
    sets, _ = blend.draw(np.arange(1000))
    assert np.bincount(sets).tolist() == [750, 250]
    assert blend.counts(1000) == [750, 250]


@pytest.mark.parametrize("samples", [0, 1, 7, 999, 1000, 1001, 12_345])
def test_the_counts_told_are_the_counts_drawn(samples: int) -> None:
    blend = Blend([7, 31, 3], [0.817, 0.15, 0.033], seed=3)
    sets, _ = blend.draw(np.arange(samples))
    assert np.bincount(sets, minlength=3).tolist() == blend.counts(samples)


def test_the_released_weights_are_met_within_a_twentieth() -> None:
    weights = [0.02, 0.02, 0.01, 0.02, 0.02, 0.01, 0.05, 0.817, 0.033]
    counts = Blend([50] * 9, weights, seed=0).counts(128_000)
    for count, weight in zip(counts, weights, strict=True):
        assert count / 128_000 == pytest.approx(weight, rel=0.05)


def test_an_epoch_holds_every_item_once_and_the_next_is_shuffled_anew() -> None:
    blend = Blend([6], [2.0], seed=5)
    _, items = blend.draw(np.arange(12))
    first, second = items[:6].tolist(), items[6:].tolist()
    assert sorted(first) == sorted(second) == [0, 1, 2, 3, 4, 5]
    assert first != second


def test_every_set_of_a_blend_goes_through_all_its_items() -> None:
    blend = Blend([4, 9], [1.0, 2.0], seed=5)
    sets, items = blend.draw(np.arange(3000))
    for which, size in ((0, 4), (1, 9)):
        mine = items[sets == which]
        for epoch in range(len(mine) // size):
            assert sorted(mine[epoch * size : (epoch + 1) * size].tolist()) == list(range(size))


def test_a_sample_does_not_depend_on_what_was_drawn_with_it() -> None:
    blend, other = Blend([8, 3], [0.7, 0.3], seed=2), Blend([8, 3], [0.7, 0.3], seed=2)
    together = blend.draw(np.arange(50))
    for number in (49, 3, 17):
        one = other.draw(np.array([number]))
        assert (one[0][0], one[1][0]) == (together[0][number], together[1][number])


def test_another_seed_is_another_order() -> None:
    assert (
        Blend([50], [1.0], 1).draw(np.arange(50))[1].tolist() != Blend([50], [1.0], 2).draw(np.arange(50))[1].tolist()
    )


@pytest.mark.parametrize(("sizes", "weights"), [([], []), ([3], [1.0, 2.0]), ([0], [1.0]), ([3], [0.0])])
def test_impossible_blends_are_refused(sizes: list[int], weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights"):
        Blend(sizes, weights, 0)
