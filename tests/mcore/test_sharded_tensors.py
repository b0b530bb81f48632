"""Each rank asks for its own part of every tensor, under the tensor's own name, and for nothing else."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.dist_checkpointing.mapping import ShardedObject, ShardedTensor
from megatron.core.transformer.mlp import apply_swiglu_sharded_factory
from torch import Tensor

from retro.mcore.sharded_tensors import fill


def test_a_rank_asks_for_its_part_and_gets_it() -> None:
    asked: list[Any] = []
    whole = torch.arange(24.0).reshape(6, 4)

    def read(name: str, part: tuple[slice, ...]) -> Tensor:
        asked.append((name, part))
        return whole[part]

    # The second of three ranks along the rows, the first of two along the columns.
    mine = torch.zeros(2, 2, dtype=torch.bfloat16)
    shard = ShardedTensor.from_rank_offsets("whole", mine, (0, 1, 3), (1, 0, 2))
    filled = fill({"chunk": {"local": shard}, "list": [3]}, read)
    assert asked == [("whole", (slice(2, 4), slice(0, 2)))]
    assert filled == {"chunk": {"local": mine}, "list": [3]}
    assert mine.tolist() == [[8.0, 9.0], [12.0, 13.0]]


def test_a_stacked_layer_asks_with_its_own_number() -> None:
    layer = torch.zeros(2, 3)
    shard = ShardedTensor.from_rank_offsets("layers", layer, (0, 1, 4), prepend_axis_num=1)
    whole = torch.arange(24.0).reshape(4, 2, 3)
    fill({"layer": shard}, lambda name, part: whole[part])
    assert torch.equal(layer, whole[1])


def test_a_rank_of_a_gated_layer_asks_for_its_gate_and_for_its_rest() -> None:
    # Over two ranks the whole is [gate; up] of 4 + 4 rows; this is the second one's 2 + 2.
    mine = torch.zeros(4, 1)
    factory = apply_swiglu_sharded_factory(ShardedTensor.from_rank_offsets("fc1", mine, (0, 1, 2)), ())
    whole = torch.arange(8.0)[:, None]
    filled = fill({"fc1": factory}, lambda name, part: whole[part])
    assert mine.flatten().tolist() == [2, 3, 6, 7]
    assert filled["fc1"] is mine


def test_what_the_source_does_not_have_stays() -> None:
    fresh = torch.ones(2)
    state = {
        "fresh": ShardedTensor.from_rank_offsets("fresh", fresh),
        "extra": ShardedObject("extra", "bytes", (1,), (0,)),
    }
    assert fill(state, lambda name, part: None) == {"fresh": fresh, "extra": "bytes"}
    assert fresh.tolist() == [1, 1]
