"""A layout that cannot work is refused by name, with the nearest that can."""

from __future__ import annotations

from typing import Any

import pytest

from retro.common.errors import ConfigError
from retro.model.config import ModelConfig, ModelShape
from retro.training.config import ParallelConfig
from retro.training.layout import require_batch, require_layout, require_processes

# 12 layers, 12 heads in 4 groups, padded vocabulary of 60.
MODEL: dict[str, Any] = {
    "layers": 12,
    "hidden_size": 96,
    "heads": 12,
    "query_groups": 4,
    "ffn_hidden_size": 384,
    "vocabulary_multiple": 12,
    "sequence_length": 256,
}
SHAPE = ModelShape(model=ModelConfig(**MODEL), vocabulary=55, chunk_length=64)


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        ({"tensor": 5}, r"parallel\.tensor = 5: needs a divisor of model\.heads = 12; nearest: 2, 4$"),
        ({"tensor": 3}, r"parallel\.tensor = 3: needs a divisor of model\.query_groups = 4; nearest: 1, 2, 4"),
        (
            {"pipeline": 5},
            r"pipeline = 5: needs a divisor of model\.layers = 12; nearest: 3, 4, 6, 12, or parallel\.stage_layers",
        ),
        ({"pipeline": 24}, r"parallel\.pipeline = 24: needs a divisor of model\.layers = 12; nearest: 6, 12"),
        (
            {"pipeline": 4, "virtual_pipeline": 2},
            r"parallel\.virtual_pipeline = 2: needs a divisor of the layers of a stage = 3; nearest: 1, 3",
        ),
    ],
)
def test_a_model_that_does_not_divide_is_refused(layout: dict[str, int], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        require_layout(SHAPE, ParallelConfig(**layout))


@pytest.mark.parametrize(
    "layout",
    [
        {"tensor": 4, "sequence": True},
        {"tensor": 2, "pipeline": 6, "virtual_pipeline": 2},
        {"pipeline": 4, "virtual_pipeline": 3},
        {"pipeline": 5, "stage_layers": (3, 1, 2, 3, 3)},
    ],
)
def test_a_model_that_divides_is_not(layout: dict[str, Any]) -> None:
    require_layout(SHAPE, ParallelConfig(**layout))


def test_layers_of_groups_are_as_many_as_the_groups_and_sum_to_the_model() -> None:
    with pytest.raises(
        ConfigError, match=r"stage_layers = \(4, 8, 1\): needs no numbers, or one for each of .* = 2 groups"
    ):
        ParallelConfig(pipeline=2, stage_layers=(4, 8, 1))
    with pytest.raises(
        ConfigError, match=r"stage_layers = \[4, 7\]: needs numbers whose sum is model.layers = 12, found 11"
    ):
        require_layout(SHAPE, ParallelConfig(pipeline=2, stage_layers=(4, 7)))


def test_sequence_parallelism_divides_the_chunk_too() -> None:
    odd = SHAPE.model_copy(update={"chunk_length": 6})
    require_layout(odd, ParallelConfig(tensor=4))
    with pytest.raises(
        ConfigError, match=r"parallel\.tensor = 4: needs a divisor of the chunk length = 6; nearest: 1, 2"
    ):
        require_layout(odd, ParallelConfig(tensor=4, sequence=True))


def test_processes_are_a_multiple_of_the_ranks_of_a_model() -> None:
    require_processes(ParallelConfig(tensor=2, pipeline=3), 12)
    words = r"pipeline = 3: needs a multiple of tensor x pipeline = 2 x 3 processes, 8 were started\. Start 6 or 12"
    with pytest.raises(ConfigError, match=words):
        require_processes(ParallelConfig(tensor=2, pipeline=3), 8)
    with pytest.raises(ConfigError, match=r"parallel\.tensor = 4: .* 1 were started\. Start 4 \(torchrun"):
        require_processes(ParallelConfig(tensor=4), 1)


def test_a_global_batch_is_shared_out_evenly() -> None:
    plain, turns = ParallelConfig(pipeline=4), ParallelConfig(pipeline=4, virtual_pipeline=3)
    require_batch(plain, global_batch=6, micro_batch=1, ranks=2)
    with pytest.raises(ConfigError, match=r"global_batch = 6: needs a multiple of .* = 2 x 2, 8 for example"):
        require_batch(plain, global_batch=6, micro_batch=2, ranks=2)
    words = r"global_batch = 6: .* = 1 x 2, times parallel\.pipeline = 4 for stages that take turns, 8 for example"
    with pytest.raises(ConfigError, match=words):
        require_batch(turns, global_batch=6, micro_batch=1, ranks=2)
