"""Process groups and random states: torch.distributed under megatron-core's parallel state.

One process without a launcher is a group of its own, so everything above runs the same code for one process and
for many.
"""

from __future__ import annotations

import os
from datetime import timedelta

import torch
import torch.distributed as dist
from megatron.core import parallel_state, tensor_parallel

from retro.common.errors import ConfigError
from retro.mcore.cpu import on_cpu


def world_size() -> int:
    """Processes that the launcher (torchrun) started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """This process's number among them."""
    return int(os.environ.get("RANK", "0"))


def start(*, tensor_parallel_size: int = 1) -> None:
    """Form the process groups. Starting again with the same sizes does nothing; with others it forms new ones.

    Raises:
        ConfigError: The number of processes is not a multiple of the tensor parallel size.
    """
    world = world_size()
    if world % tensor_parallel_size:
        raise ConfigError(
            "parallel.tensor",
            tensor_parallel_size,
            f"needs a divisor of the {world} processes that were started",
        )
    if not dist.is_initialized():
        _initialize_distributed(world)
    if parallel_state.is_initialized():
        if parallel_state.get_tensor_model_parallel_world_size() == tensor_parallel_size:
            return
        parallel_state.destroy_model_parallel()
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=tensor_parallel_size)


def _initialize_distributed(world: int) -> None:
    if not on_cpu():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    backend = "gloo" if on_cpu() else "nccl"
    # One process needs no port to meet others at; a port left in the environment would be its children's trouble.
    store = dist.HashStore() if world == 1 else None  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=store, world_size=world, rank=rank(), timeout=timedelta(minutes=30))


def stop() -> None:
    """Leave the groups."""
    if parallel_state.is_initialized():
        parallel_state.destroy_model_parallel()
    if dist.is_initialized():
        dist.destroy_process_group()


def seed(value: int) -> None:
    """Seed torch's generators and megatron-core's per-rank random states."""
    torch.manual_seed(value)
    tensor_parallel.model_parallel_cuda_manual_seed(value, force_reset_rng=True)


def data_parallel() -> tuple[int, int]:
    """This process's data parallel rank, and how many there are."""
    return parallel_state.get_data_parallel_rank(), parallel_state.get_data_parallel_world_size()


def is_main() -> bool:
    """Whether this process writes logs and files that exist once."""
    return not dist.is_initialized() or dist.get_rank() == 0


def barrier() -> None:
    """Wait for all processes."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.barrier()


def sum_over_data_parallel(values: torch.Tensor) -> torch.Tensor:
    """Sum a tensor over the data parallel ranks, in place."""
    if parallel_state.get_data_parallel_world_size() > 1:
        dist.all_reduce(values, group=parallel_state.get_data_parallel_group())
    return values
