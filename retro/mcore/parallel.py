"""Process groups and random states: torch.distributed under megatron-core's parallel state.

One process without a launcher is a group of its own, so everything above runs the same code for one process and
for many.
"""

from __future__ import annotations

import atexit
import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from megatron.core import parallel_state, tensor_parallel
from numpy.typing import NDArray

from retro.common.errors import ConfigError
from retro.mcore.cpu import device, on_cpu

T = TypeVar("T")

# Distance between the seeds of neighboring stages: more steps than a run has, since a step adds its number.
_STAGE_SEED = 1_000_003_000


def world_size() -> int:
    """Processes that the launcher started; 1 without one. `join_launcher` has put others' words into torchrun's."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """This process's number among them."""
    return int(os.environ.get("RANK", "0"))


class Layout(Protocol):
    """Sizes of the groups that share one copy of the model, as `ParallelConfig` has them; other processes hold other
    copies."""

    @property
    def tensor(self) -> int:
        """Ranks that share every layer."""

    @property
    def sequence(self) -> bool:
        """Whether they also share the sequence outside the matrix products."""

    @property
    def pipeline(self) -> int:
        """Stages."""

    @property
    def virtual_pipeline(self) -> int:
        """Groups of layers in a stage."""

    @property
    def stage_layers(self) -> tuple[int, ...]:
        """Layers of each group, in the order in which the groups compute; empty: as many in each."""


class OneStage(NamedTuple):
    """The layout of a model without pipeline stages."""

    tensor: int = 1
    sequence: bool = False
    pipeline: int = 1
    virtual_pipeline: int = 1
    stage_layers: tuple[int, ...] = ()


ONE_PROCESS = OneStage()


def start(layout: Layout = ONE_PROCESS) -> None:
    """Form the process groups. Starting again with the same sizes does nothing; with others it forms new ones.

    Raises:
        ConfigError: The number of processes is not a multiple of the model's ranks.
    """
    world = world_size()
    if world % (layout.tensor * layout.pipeline):
        need = f"needs a multiple of {layout.tensor} x {layout.pipeline} processes, {world} were started"
        raise ConfigError("parallel.tensor x parallel.pipeline", layout.tensor * layout.pipeline, need)
    if not dist.is_initialized():
        _initialize_distributed(world)
    if parallel_state.is_initialized():
        if _sizes() == (layout.tensor, layout.pipeline, layout.virtual_pipeline):
            return
        parallel_state.destroy_model_parallel()
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=layout.tensor,
        pipeline_model_parallel_size=layout.pipeline,
        virtual_pipeline_model_parallel_size=layout.virtual_pipeline if layout.virtual_pipeline > 1 else None,
        create_gloo_process_groups=False,
    )


def _sizes() -> tuple[int, int, int]:
    return (
        parallel_state.get_tensor_model_parallel_world_size(),
        parallel_state.get_pipeline_model_parallel_world_size(),
        parallel_state.get_virtual_pipeline_model_parallel_world_size() or 1,
    )


def _initialize_distributed(world: int) -> None:
    if not on_cpu():
        # A launcher that gives each process a GPU of its own shows it no other.
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    backend = "gloo" if on_cpu() else "nccl"
    # One process needs no port to meet others at; a port left in the environment would be its children's trouble.
    store = dist.HashStore() if world == 1 else None  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=store, world_size=world, rank=rank(), timeout=timedelta(minutes=30))
    # A process that ends with its groups open ends now and then in "terminate called": their threads still run.
    atexit.register(stop)


def stop() -> None:
    """Leave the groups."""
    if parallel_state.is_initialized():
        parallel_state.destroy_model_parallel()
    if dist.is_initialized():
        dist.destroy_process_group()


def seed(value: int) -> None:
    """Seed torch's generators and megatron-core's per-rank random states; stages draw different numbers."""
    stage = parallel_state.get_pipeline_model_parallel_rank()
    torch.manual_seed(value + _STAGE_SEED * stage)
    tensor_parallel.model_parallel_cuda_manual_seed(value + _STAGE_SEED * stage, force_reset_rng=True)


def data_parallel() -> tuple[int, int]:
    """This process's data parallel rank, and how many there are."""
    return parallel_state.get_data_parallel_rank(), parallel_state.get_data_parallel_world_size()


def tensor_parallel_rank() -> tuple[int, int]:
    """This process's tensor parallel rank, and how many there are."""
    return (
        parallel_state.get_tensor_model_parallel_rank(),
        parallel_state.get_tensor_model_parallel_world_size(),
    )


def pipeline_rank() -> tuple[int, int]:
    """This process's stage, and how many there are."""
    return (
        parallel_state.get_pipeline_model_parallel_rank(),
        parallel_state.get_pipeline_model_parallel_world_size(),
    )


def model_parallel_place() -> tuple[int, int]:
    """Which part of the model this process holds: its stage and its tensor parallel rank."""
    return pipeline_rank()[0], tensor_parallel_rank()[0]


@dataclass(frozen=True)
class StageLayers:
    """Where a group of layers is in the pipeline."""

    stage: int
    """Which stage holds it."""
    vp_stage: int | None
    """Which of the stage's groups it is; None where each stage has one."""
    first: bool
    """Whether the embedding is here."""
    last: bool
    """Whether the output layer is here."""


def from_first(value: T) -> T:
    """What the first rank gives, on all ranks. Every rank calls this; they meet for it if they have not met."""
    if world_size() > 1 and not dist.is_initialized():
        _initialize_distributed(world_size())
    return gather_objects(value)[0]


def place(vp_stage: int) -> StageLayers:
    """The place of this rank's group of layers number `vp_stage`."""
    virtual = parallel_state.get_virtual_pipeline_model_parallel_world_size()
    which = None if virtual is None else vp_stage
    return StageLayers(
        stage=parallel_state.get_pipeline_model_parallel_rank(),
        vp_stage=which,
        first=parallel_state.is_pipeline_first_stage(ignore_virtual=False, vp_stage=which),
        last=parallel_state.is_pipeline_last_stage(ignore_virtual=False, vp_stage=which),
    )


def process() -> tuple[int, int]:
    """This process's number, and how many there are; one of one before they have met."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def is_main() -> bool:
    """Whether this process writes logs and files that exist once."""
    return not dist.is_initialized() or dist.get_rank() == 0


def barrier() -> None:
    """Wait for all processes."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.barrier()


def broadcast_arrays(arrays: dict[str, NDArray[Any] | None] | None) -> dict[str, torch.Tensor | None]:
    """Give all tensor parallel ranks the arrays of the first of them, on their devices.

    Args:
        arrays: On the first rank; None on the others.
    """
    if arrays is not None and tensor_parallel_rank()[1] == 1:
        return {name: None if one is None else torch.from_numpy(one).to(device()) for name, one in arrays.items()}
    group, source = (
        parallel_state.get_tensor_model_parallel_group(),
        parallel_state.get_tensor_model_parallel_src_rank(),
    )
    header: list[Any] = [None]
    if arrays is not None:
        header = [[(name, None if one is None else (one.dtype.str, one.shape)) for name, one in arrays.items()]]
    dist.broadcast_object_list(header, src=source, group=group)
    found: dict[str, torch.Tensor | None] = {}
    for name, form in header[0]:
        if form is None:
            found[name] = None
            continue
        held = np.empty(form[1], dtype=form[0]) if arrays is None else arrays[name]
        values = torch.from_numpy(held).to(device())
        # NCCL has no bool.
        dist.broadcast(values.view(torch.uint8) if values.dtype == torch.bool else values, src=source, group=group)
        found[name] = values
    return found


def from_last_stage(values: torch.Tensor) -> torch.Tensor:
    """Give all stages the last one's tensor, in place; the others hold zeros."""
    if parallel_state.get_pipeline_model_parallel_world_size() > 1:
        dist.all_reduce(values, group=parallel_state.get_pipeline_model_parallel_group())
    return values


def sum_over_data_parallel(values: torch.Tensor) -> torch.Tensor:
    """Sum a tensor over the data parallel ranks, in place."""
    if parallel_state.get_data_parallel_world_size() > 1:
        dist.all_reduce(values, group=parallel_state.get_data_parallel_group())
    return values


def sum_of_last_stages(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum an array over the data parallel ranks of the last stage, for all ranks; other stages hold zeros."""
    total: NDArray[np.float64] = (
        sum_over_data_parallel(from_last_stage(torch.tensor(values, device=device()))).cpu().numpy()
    )
    return total


def any_rank(condition: bool) -> bool:
    """Whether the condition holds on any rank. Every rank calls this."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return condition
    found = torch.tensor([int(condition)], device=device())
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return bool(found.item())


def gather_objects(value: T) -> list[T]:
    """What every rank gives, in the order of ranks. For small things. Every rank calls this."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [value]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found
