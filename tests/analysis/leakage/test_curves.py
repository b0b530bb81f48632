from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from retro.analysis.leakage.measure import Chunks, curve, histogram, reaching
from retro.analysis.leakage.summary import sentences

SHARES = np.array([0.0, 0.25, 0.5, 1.0])


def test_bits_per_byte_are_all_bits_over_all_bytes() -> None:
    # 2 ln 2 nats are 2 bits. Up to 0.25: 2 + 4 bits over 4 + 2 bytes; in all 2 + 4 + 8 + 10 = 24 over 4 + 2 + 4 + 6.
    chunks = Chunks(np.array([2, 4, 8, 10]) * math.log(2), np.array([1, 2, 2, 1]), np.array([4, 2, 4, 6]))
    points = curve(SHARES, chunks, (0.25, 1.0))
    assert [(one.chunks, one.tokens, one.bytes) for one in points] == [(2, 3, 6), (4, 6, 16)]
    assert [one.bits_per_byte for one in points] == pytest.approx([1.0, 1.5])
    assert [one.perplexity for one in points] == pytest.approx([2 ** (6 / 3), 2 ** (24 / 6)])


def test_without_a_chunk_there_is_no_score() -> None:
    chunks = Chunks(np.array([1.0]), np.array([1]), np.array([1]))
    first, last = curve(np.array([1.0]), chunks, (0.5, 1.0))
    assert (first.chunks, first.perplexity, first.bits_per_byte) == (0, None, None)
    assert last.perplexity == pytest.approx(math.e)


def test_a_share_that_is_the_alpha_counts_within_it_whatever_its_last_bit() -> None:
    tenths = np.array([3 / 10, 0.1 + 0.2, 1 - 0.7])
    assert len(set(tenths.tolist())) == 2
    assert histogram(tenths, (0.3, 1.0)) == [3, 0]
    assert reaching(tenths, 0.3).all()


def test_chunks_are_counted_between_alphas() -> None:
    assert histogram(SHARES, (0.125, 0.5, 1.0)) == [1, 2, 1]


def test_shares_and_losses_are_of_the_same_chunks() -> None:
    with pytest.raises(ValueError, match="4 shares and losses of 1 chunks"):
        curve(SHARES, Chunks(np.ones(1), np.ones(1, dtype=int), np.ones(1, dtype=int)), (1.0,))


def result(**scores: tuple[float, float]) -> dict[str, Any]:
    """1,000 chunks, 400 of them up to 0.125; for each model its bits per byte there and over all."""
    names = {"real": ("retro", "real"), "shuffled": ("retro", "shuffled"), "gpt": ("gpt", "-")}
    rows = [
        {
            "model": names[name][0],
            "neighbors": names[name][1],
            "points": [
                {"alpha": 0.125, "chunks": 400, "bits_per_byte": new},
                {"alpha": 1.0, "chunks": 1000, "bits_per_byte": every},
            ],
        }
        for name, (new, every) in scores.items()
    ]
    measure = {"copied": {"half": 250, "whole": 20}, "median": 0.2, "rows": rows}
    return {"chunks": 1000, "neighbors_saved": 10, "measures": {"training": measure, "neighbors": measure}}


def test_sentences_say_how_much_leaks() -> None:
    said = sentences(result())
    assert said == [
        "250 of 1,000 held-out chunks (25.0%) have at least half of their text in one piece in the training text, "
        "20 of them all of it; for the median chunk the longest such piece is 20% of it.",
        "250 of 1,000 held-out chunks (25.0%) have at least half of their text in one piece in one of its 10 saved "
        "neighbors and its continuation, 20 of them all of it; for the median chunk the longest such piece is 20% of "
        "it.",
    ]
    clean = result()
    clean["measures"]["training"]["copied"] = {"half": 0, "whole": 0}
    assert sentences(clean)[0].startswith("No chunk of the 1,000 held-out ones has half of its text in one piece in")


@pytest.mark.parametrize(
    ("real", "gpt", "words"),
    [
        (
            (1.0, 0.9),
            (1.0, 1.0),
            ["10.00% fewer bits per byte than the GPT", "as many: the gain comes from copied text."],
        ),
        ((0.95, 0.9), (1.0, 1.0), ["over the 400 chunks of which at most 12.5%", "50% of the gain is left where"]),
        ((0.8, 0.9), (1.0, 1.0), ["20.00% fewer: the gain does not come from copied text."]),
        ((1.1, 1.1), (1.0, 1.0), ["10.00% more bits per byte than", "there is no gain over all chunks that copies"]),
        ((0.9, 1.0), (1.0, 1.0), ["as many bits per byte as", "copies could explain, only one here."]),
        ((1.1, 0.9), (1.0, 1.0), ["10.00% more: the gain comes from copied text."]),
    ],
)
def test_sentences_say_what_is_left_of_a_gain(
    real: tuple[float, float], gpt: tuple[float, float], words: list[str]
) -> None:
    said = sentences(result(real=real, gpt=gpt))
    assert len(said) == 3
    for some in words:
        assert some in said[2]


def test_too_few_chunks_below_an_alpha_decide_nothing() -> None:
    few = result(real=(0.5, 0.9), gpt=(1.0, 1.0))
    for row in few["measures"]["training"]["rows"]:
        row["points"][0]["chunks"] = 99
    assert sentences(few)[2].endswith("too few chunks (99) lie below any smaller alpha to say more.")
    for row in few["measures"]["training"]["rows"]:
        for point in row["points"]:
            point["bits_per_byte"] = None
    assert len(sentences(few)) == 2
