"""The sharded state of a model: filling each rank's own part of every tensor from somewhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from megatron.core.dist_checkpointing.mapping import ShardedBase, ShardedTensor, ShardedTensorFactory
from torch import Tensor

ReadPart = Callable[[str, tuple[slice, ...]], Tensor | None]
"""From a tensor's key and a slice of each axis of the whole tensor to that part; None where there is no such tensor."""


def fill(state: dict[str, Any], read: ReadPart) -> dict[str, Any]:
    """Copy what `read` gives into the tensors of a sharded state, in place: one tensor's part is in memory at a time.

    Args:
        state: Nested dicts and lists of what `sharded_state_dict` gives.
        read: Asked once for each tensor of this rank; what it does not know keeps its values.

    Returns:
        The same state with plain tensors, as `load_state_dict` takes it.
    """
    return {name: _fill(value, read) for name, value in state.items()}


def shards(state: Any) -> Iterator[ShardedTensor]:
    """Every tensor of a sharded state that `fill` would ask for, with its key and the size of the whole."""
    if isinstance(state, dict):
        state = list(state.values())
    if isinstance(state, list):
        for value in state:
            yield from shards(value)
    elif isinstance(state, ShardedTensorFactory):
        yield from shards(state.build())
    elif isinstance(state, ShardedTensor):
        yield state


def _fill(value: Any, read: ReadPart) -> Any:
    if isinstance(value, dict):
        return fill(value, read)
    if isinstance(value, list):
        return [_fill(one, read) for one in value]
    if isinstance(value, ShardedTensorFactory):
        # The parts that it builds are views of its tensor, so filling them fills it.
        _fill(value.build(), read)
        return value.data
    if isinstance(value, ShardedTensor):
        _fill_tensor(value, read)
    return value.data if isinstance(value, ShardedBase) else value


def _fill_tensor(shard: ShardedTensor, read: ReadPart) -> None:
    whole = zip(shard.global_offset, (1,) * shard.prepend_axis_num + tuple(shard.local_shape), strict=True)
    found = read(shard.key, tuple(slice(start, start + length) for start, length in whole))
    if found is not None:
        with torch.no_grad():
            shard.data.copy_(found.reshape(shard.local_shape))
