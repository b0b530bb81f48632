"""Tensors that go from pipeline stage to pipeline stage without a training schedule: one way, one at a time."""

from __future__ import annotations

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor

from retro.mcore.cpu import device


def send_on(tensor: Tensor) -> None:
    """Send a tensor to the next stage, which must be waiting for one of its shape and type."""
    following = parallel_state.get_pipeline_model_parallel_next_rank()
    dist.send(tensor.contiguous(), dst=following, group=parallel_state.get_pipeline_model_parallel_group())


def receive(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Wait for a tensor from the stage before."""
    arriving = torch.empty(shape, dtype=dtype, device=device())
    before = parallel_state.get_pipeline_model_parallel_prev_rank()
    dist.recv(arriving, src=before, group=parallel_state.get_pipeline_model_parallel_group())
    return arriving


def from_last_stage(tensor: Tensor) -> Tensor:
    """The last stage's tensor, for all stages; the others give one of its shape and type, which is written over."""
    if parallel_state.get_pipeline_model_parallel_world_size() == 1:
        return tensor
    tensor = tensor.contiguous()
    last = parallel_state.get_pipeline_model_parallel_last_rank()
    dist.broadcast(tensor, src=last, group=parallel_state.get_pipeline_model_parallel_group())
    return tensor
