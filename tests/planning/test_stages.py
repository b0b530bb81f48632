"""Which layers are where."""

from __future__ import annotations

from retro.model.config import ModelConfig, ModelShape
from retro.planning.stages import encodes, stages_of
from retro.training.config import ParallelConfig

SHAPE = ModelShape(model=ModelConfig(layers=8, first_cross_attention=3), vocabulary=50, chunk_length=64)


def numbers(layout: ParallelConfig) -> list[list[list[int]]]:
    return [[list(block.layers) for block in stage] for stage in stages_of(SHAPE, layout)]


def test_stages_that_take_turns_hold_every_other_group() -> None:
    layout = ParallelConfig(pipeline=2, virtual_pipeline=2)
    assert numbers(layout) == [[[1, 2], [5, 6]], [[3, 4], [7, 8]]]
    assert [[encodes(SHAPE, block) for block in stage] for stage in stages_of(SHAPE, layout)] == [
        [False, False],
        [True, False],
    ]


def test_layers_are_dealt_out_as_asked() -> None:
    layout = ParallelConfig(pipeline=2, virtual_pipeline=2, stage_layers=(3, 2, 1, 2))
    assert numbers(layout) == [[[1, 2, 3], [6]], [[4, 5], [7, 8]]]
