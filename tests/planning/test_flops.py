"""FLOPs, worked by hand on a small shape, and held against the ratios computed for 843m by other means."""

from __future__ import annotations

import pytest

from retro.planning.flops import block_flops, count_flops, neighbor_tokens, recomputed_flops
from retro.planning.stages import Block, stages_of
from retro.training.config import ParallelConfig
from tests.planning.shapes import hand_shape, sized


def test_the_flops_of_a_small_shape_are_those_worked_by_hand() -> None:
    # 4 d^2 = 1024 for query and output, half of it (2 of 4 groups) for key and value, 4 d f = 2048 for the
    # feed-forward layers; 8 chunks x 2 neighbors x 8 tokens = 128 neighbor tokens, 4 for each of the 32 tokens.
    flops = count_flops(hand_shape())
    assert neighbor_tokens(hand_shape()) == 128
    assert flops.decoder == 3 * (1024 + 512 + 2048 + 2 * 32 * 16) == 13_824
    assert flops.logits == 2 * 50 * 16 == 1600
    assert flops.cross_attention == 2 * (1024 + 4 * 512 + 4 * 2 * 8 * 16) == 8192
    assert flops.encoder == 4 * (2 * (1024 + 512 + 2048 + 4 * 8 * 16) + 1024 + 4 * 4 * 16) + 512 == 38_400
    assert flops.total == 62_016
    assert flops.training == 186_048
    assert flops.ratio == pytest.approx(62_016 / 15_424)


def test_swiglu_multiplies_by_three_matrices() -> None:
    # 6 d f instead of 4 d f: 1024 more in each of 3 decoder layers, and 4 x 1024 in each of 2 encoder layers.
    wider, plain = count_flops(hand_shape(activation="swiglu")), count_flops(hand_shape())
    assert wider.decoder - plain.decoder == 3 * 1024
    assert wider.encoder - plain.encoder == 4 * 2 * 1024


def test_without_retrieval_only_the_decoder_and_the_logits_are_left() -> None:
    gpt = count_flops(hand_shape(retrieval=False))
    assert (gpt.cross_attention, gpt.encoder) == (0, 0)
    assert gpt.total == count_flops(hand_shape()).gpt == 15_424


def test_a_chunk_that_is_not_whole_has_no_neighbors() -> None:
    # 31 tokens are 7 whole chunks: 7 x 2 x 8 neighbor tokens.
    assert neighbor_tokens(hand_shape(sequence_length=31)) == 112


@pytest.mark.parametrize(
    ("vocabulary", "length", "settings", "ratio"),
    [
        (256_000, 2048, {}, "1.296"),
        (256_000, 4096, {}, "1.273"),
        (32_000, 2048, {}, "1.47"),
        (256_000, 2048, {"neighbors": 1}, "1.158"),
        (256_000, 2048, {"neighbors": 4}, "1.571"),
        (50_257, 2048, {}, "1.451"),
    ],
)
def test_retro_over_gpt_at_843m_is_the_known_ratio(
    vocabulary: int, length: int, settings: dict[str, int], ratio: str
) -> None:
    # The known ratios let each neighbor project its chunk's keys and values again: 4 d^2 more for all but one.
    shape = sized("843m", vocabulary=vocabulary, sequence_length=length, **settings)
    flops = count_flops(shape)
    again = (shape.model.neighbors - 1) * 4 * 1024**2
    assert f"{(flops.total + again) / flops.gpt:.{len(ratio) - 2}f}" == ratio


def test_what_is_computed_again_is_worked_by_hand() -> None:
    # Feed-forward 2048 and 4 x 16 x 16 = 1024 of attention in each of 3 layers; 4 x 16 x 16 in each of 2 that read;
    # 4 neighbor tokens a token: 2 layers of 2048 and 4 x 8 x 16, and 4 x 4 x 16 where they read the chunk.
    shape = hand_shape()
    (block,) = stages_of(shape, ParallelConfig())[0]
    assert recomputed_flops(shape, block, "none") == 0
    assert recomputed_flops(shape, block, "selective") == 3 * (2048 + 1024) + 2 * 1024 + 4 * (2 * (2048 + 512) + 256)
    assert recomputed_flops(shape, block, "full") == 62_016 - 1600


@pytest.mark.parametrize(("stages", "turns"), [(1, 1), (3, 1), (6, 1), (3, 2)])
def test_the_stages_have_together_what_the_model_has(stages: int, turns: int) -> None:
    shape = hand_shape(layers=6)
    layout = ParallelConfig(pipeline=stages, virtual_pipeline=turns)
    blocks = [block for blocks in stages_of(shape, layout) for block in blocks]
    parts = [block_flops(shape, block) for block in blocks]
    whole = count_flops(shape)
    assert sum(part.total for part in parts) == whole.total
    assert [part.encoder for part in parts].count(whole.encoder) == 1
    assert sorted(number for block in blocks for number in block.layers) == [1, 2, 3, 4, 5, 6]


def test_stages_that_take_turns_hold_runs_of_layers() -> None:
    layout = ParallelConfig(pipeline=2, virtual_pipeline=2)
    first, second = stages_of(hand_shape(layers=8), layout)
    assert first == [Block(range(1, 3), True, False), Block(range(5, 7), False, False)]
    assert second == [Block(range(3, 5), False, False), Block(range(7, 9), False, True)]
