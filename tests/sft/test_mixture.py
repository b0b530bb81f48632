from __future__ import annotations

import numpy as np

from retro.qa.sample_layout import EncodedSample
from retro.sft.blend import Blend, mixture_record, mixture_table, shares


def sample(prompt: int, answer: int) -> EncodedSample:
    return EncodedSample(np.zeros(prompt, dtype=np.int32), np.zeros(answer, dtype=np.int32), 0)


ONE = [sample(5, 1), sample(5, 2), sample(5, 3), sample(5, 4)]
TWO = [sample(10, 100)]


def test_shares_count_samples_epochs_and_tokens() -> None:
    blend = Blend([4, 1], [3.0, 1.0], seed=0)
    # 16 samples: 12 of the first set, which is three times through it, and 4 of the second.
    one, two = shares(blend, [ONE, TWO], np.arange(16))
    assert (one.samples, one.epochs, one.tokens, one.answer_tokens) == (12, 3.0, 3 * 30, 3 * 10)
    assert (two.samples, two.epochs, two.tokens, two.answer_tokens) == (4, 4.0, 4 * 110, 4 * 100)
    assert (one.wanted, one.achieved, two.achieved) == (0.75, 0.75, 0.25)


def test_a_part_of_an_epoch_counts_the_samples_that_were_drawn() -> None:
    blend = Blend([4], [1.0], seed=3)
    _, drawn = blend.draw(np.arange(2))
    [one] = shares(blend, [ONE], np.arange(2))
    assert one.answer_tokens == sum(len(ONE[item].answer) for item in drawn.tolist())
    assert one.epochs == 0.5


def test_no_samples_have_no_shares() -> None:
    [one] = shares(Blend([4], [1.0], seed=0), [ONE], np.arange(0))
    assert (one.achieved, one.samples, one.tokens) == (0.0, 0, 0)


def test_the_table_has_a_line_for_each_set() -> None:
    found = shares(Blend([4, 1], [3.0, 1.0], seed=0), [ONE, TWO], np.arange(16))
    head, first, second = mixture_table(["one", "a longer name"], found)
    assert head.split() == ["set", "wanted", "achieved", "samples", "epochs", "tokens", "of", "answers"]
    assert first.split() == ["one", "0.750", "0.750", "12", "3.000", "90", "30"]
    assert second.split() == ["a", "longer", "name", "0.250", "0.250", "4", "4.000", "440", "400"]
    assert mixture_record(["one", "two"], found)["two"]["tokens"] == 440
