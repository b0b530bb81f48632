"""An optimizer's state in a form that any layout can read: for each weight, tensors of the weight's own shape.

    optimizer.state.exp_avg.<weight>      Adam's moments
    optimizer.state.exp_avg_sq.<weight>
    optimizer.state.fp32_param.<weight>   the master weight, where the weight itself is bfloat16

megatron-core's three optimizers (float32, mixed precision, distributed) each have a form of their own for this, and
release 0.16.1's reshardable form of the distributed one loses the end of a buffer with several buckets, as tied
embeddings over pipeline stages make it. So the tensors are taken from the optimizers directly. A run may continue with
other sizes of every kind of parallelism, and with the distributed optimizer switched on or off.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from torch import Tensor, nn

_MOMENTS = ("exp_avg", "exp_avg_sq")


def metadata() -> dict[str, Any]:
    """What megatron-core gets as the form of a checkpoint; a new one each time, since it keeps groups in it.

    Layers differ (some read neighbors), so each is saved under its own number.
    """
    return {"non_homogeneous_layers": True}


@dataclass(frozen=True)
class _Entry:
    """One weight, and what this rank's optimizer holds for it."""

    weight: nn.Parameter
    state: dict[str, Tensor]
    """Flat tensors by name; empty where another data parallel rank holds them all."""
    start: int
    """Where in the flat weight they begin."""


def saved(optimizer: Any, weights: dict[str, Any]) -> dict[str, Any]:
    """What this rank writes of the optimizer's state. Every rank calls this.

    Args:
        optimizer: megatron-core's.
        weights: The sharded weights it updates.

    Returns:
        Sharded tensors by name. Where the state is shared out over data parallel ranks, the first of them has it all
        and the others write nothing.
    """
    _allocate(optimizer)
    found: dict[str, Any] = {}
    places = _places(weights)
    for one in _optimizers(optimizer):
        for entry in _entries(one):
            for name in _names(one, entry.weight):
                values = _whole(one, entry, name)
                if values is not None:
                    shard = _like(places[entry.weight.data_ptr()], name, values)
                    found[shard.key] = shard
    return found


def wanted(optimizer: Any, weights: dict[str, Any]) -> dict[str, Any]:
    """What this rank reads: sharded tensors by name, to be filled and given to `restore`."""
    _allocate(optimizer)
    places = _places(weights)
    shards = (
        _like(places[entry.weight.data_ptr()], name, torch.empty(entry.weight.shape, dtype=torch.float32))
        for one in _optimizers(optimizer)
        for entry in _entries(one)
        if entry.state
        for name in _names(one, entry.weight)
    )
    return {shard.key: shard for shard in shards}


@torch.no_grad()
def restore(optimizer: Any, weights: dict[str, Any], filled: dict[str, Tensor], steps: int) -> None:
    """Take back tensors that a checkpoint filled, after the weights.

    Args:
        optimizer: The one that named them.
        weights: The sharded weights it updates.
        filled: The tensors of `wanted`, filled.
        steps: Optimizer steps taken so far.
    """
    optimizer.reload_model_params()
    places = _places(weights)
    for one in _optimizers(optimizer):
        for entry in _entries(one):
            for name in _names(one, entry.weight) if entry.state else ():
                target = entry.state[name]
                values = filled[_key(places[entry.weight.data_ptr()], name)].flatten()
                target.view(-1).copy_(values[entry.start : entry.start + target.numel()])
        _set_steps(one.optimizer, steps)


def _entries(optimizer: Any) -> Iterator[_Entry]:
    """All weights of an optimizer."""
    if isinstance(optimizer, DistributedOptimizer):
        yield from _distributed_entries(optimizer)
        return
    masters: dict[Tensor, Any] = {}
    for halves, fulls in zip(
        getattr(optimizer, "float16_groups", ()), getattr(optimizer, "fp32_from_float16_groups", ()), strict=True
    ):
        masters |= dict(zip(fulls, halves, strict=True))
    for group in optimizer.optimizer.param_groups:
        for held in group["params"]:
            yield _Entry(masters.get(held, held), _state(optimizer, held), 0)


def _distributed_entries(optimizer: DistributedOptimizer) -> Iterator[_Entry]:
    for buffer in optimizer.buffers:
        for weight in buffer.param_index_map:
            place = optimizer.model_param_group_index_map.get(weight)
            if place is None:
                yield _Entry(weight, {}, 0)
                continue
            held = optimizer.optimizer.param_groups[place[0]]["params"][place[1]]
            yield _Entry(weight, _state(optimizer, held), optimizer._get_model_param_range_map(weight)["param"].start)


def _state(optimizer: Any, held: Tensor) -> dict[str, Tensor]:
    moments = optimizer.optimizer.state[held]
    return {"fp32_param": held} | {name: moments[name] for name in _MOMENTS}


def _names(optimizer: Any, weight: Tensor) -> tuple[str, ...]:
    """What is kept of a weight: a float32 weight is its own master."""
    return _MOMENTS if weight.dtype == torch.float32 else ("fp32_param", *_MOMENTS)


def _whole(optimizer: Any, entry: _Entry, name: str) -> Tensor | None:
    """A tensor of the weight's shape; None where the first data parallel rank has it."""
    if not isinstance(optimizer, DistributedOptimizer):
        return entry.state[name].detach().view(entry.weight.shape)
    group = optimizer.data_parallel_group
    whole = torch.zeros(entry.weight.numel(), dtype=torch.float32, device=entry.weight.device)
    if entry.state:
        part = entry.state[name].detach()
        whole[entry.start : entry.start + part.numel()] = part
    # Parts do not overlap, so their sum is exact.
    dist.reduce(whole, dst=dist.get_global_rank(group, 0), group=group)
    return whole.view(entry.weight.shape).cpu() if group.rank() == 0 else None


def _places(weights: dict[str, Any]) -> dict[int, ShardedTensor | ShardedTensorFactory]:
    """Where in the whole each weight of this rank is, by the address of its data."""
    shards = (one for one in nested_values(weights) if isinstance(one, ShardedTensor | ShardedTensorFactory))
    return {one.data.data_ptr(): one for one in shards}


def _key(place: ShardedTensor | ShardedTensorFactory, name: str) -> str:
    return f"optimizer.state.{name}.{place.key}"


def _like(place: ShardedTensor | ShardedTensorFactory, name: str, values: Tensor) -> Any:
    """A shard of the optimizer's state that is where its weight does."""
    if isinstance(place, ShardedTensorFactory):
        return replace(place, key=_key(place, name), data=values)
    return replace(place, key=_key(place, name), data=values, dtype=values.dtype)


def _allocate(optimizer: Any) -> None:
    """Zeros for the moments that no step has made yet."""
    for one in _optimizers(optimizer):
        for group in one.optimizer.param_groups:
            for held in group["params"]:
                moments = one.optimizer.state[held]
                for name in _MOMENTS:
                    if name not in moments:
                        moments[name] = torch.zeros_like(held, dtype=torch.float32)
        if _keeps_step_with_moments(one.optimizer):
            for moments in one.optimizer.state.values():
                moments.setdefault("step", torch.tensor(0.0))


def _set_steps(torch_optimizer: Any, steps: int) -> None:
    if _keeps_step_with_moments(torch_optimizer):
        for moments in torch_optimizer.state.values():
            moments["step"] = torch.tensor(float(steps))
        return
    for group in torch_optimizer.param_groups:
        group["step"] = steps


def _keeps_step_with_moments(torch_optimizer: Any) -> bool:
    # Fused ones, of Apex and Transformer Engine, keep it in their parameter groups.
    return isinstance(torch_optimizer, torch.optim.Adam | torch.optim.AdamW)


def _optimizers(optimizer: Any) -> list[Any]:
    return list(getattr(optimizer, "chained_optimizers", [optimizer]))
