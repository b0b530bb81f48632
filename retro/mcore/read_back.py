"""What memory holds when a checkpoint is begun, and whether the files hold just that.

Writers have been seen to save old weights without a word: copies that were made too early, buffers used twice. So each
tensor of the state is summed up in memory, where the model computes, before anything is planned or copied; and what was
written is read back and compared.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from megatron.core.dist_checkpointing.mapping import is_main_replica
from torch import Tensor

from retro.common.plain_pickle import PickleError
from retro.mcore.sharded_tensors import shards
from retro.mcore.torch_files import TorchFile

Place = tuple[str, tuple[int, ...]]
"""A tensor's name in the checkpoint, and where in the whole tensor this rank's part begins."""
Sums = dict[Place, int]
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def sums_of(state: Mapping[str, Any]) -> Sums:
    """A sum over the bits of each tensor that this rank writes; costs one pass over them on their own device."""
    own = (one for one in shards(dict(state)) if is_main_replica(one.replica_id))
    return {(one.key, tuple(one.global_offset)): _sum(one.data) for one in own}


def difference(directory: Path, bucket: Any, results: Sequence[Any], sums: Sums) -> str:
    """Read what was written of a bucket back, and compare it with the bucket, and that with the sums.

    Args:
        directory: The checkpoint.
        bucket: File, key, and (items, objects) and (items, tensors), as megatron-core's writer has it.
        results: What the writer says about each of them, in the same order: the place of its bytes in the file.
        sums: Of memory; those that are found right are taken out.

    Returns:
        What differs; empty if nothing does.

    Raises:
        OSError, PickleError: The file cannot be read back.
    """
    _, _, (objects, tensors) = bucket
    for (item, content), result in zip([*objects, *tensors], results, strict=True):
        if isinstance(content, io.BytesIO):
            if _bytes_of(directory, result.storage_data) != content.getvalue():
                return f"{item.index.fqn} is not what was written"
            continue
        if not torch.equal(_bits(_tensor_of(directory, result.storage_data)), _bits(content)):
            return f"{item.index.fqn} is not what was written"
        place = (item.index.fqn, tuple(item.index.offset or (0,) * content.dim()))
        if place not in sums:
            return f"{item.index.fqn} at {place[1]} is not among what memory holds"
        if sums.pop(place) != _sum(content):
            return f"{item.index.fqn} is not what memory held when the checkpoint was begun"
    return ""


def _tensor_of(directory: Path, place: Any) -> Tensor:
    file = TorchFile(directory / place.relative_path, place.offset, place.length)
    stored = file.tensor(file.value)
    if stored is None:
        raise PickleError("it holds no tensor")
    return stored.read()


def _bytes_of(directory: Path, place: Any) -> bytes:
    with (directory / place.relative_path).open("rb") as stream:
        stream.seek(place.offset)
        return stream.read(place.length)


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().view(_INTEGERS[tensor.element_size()])


def _sum(tensor: Tensor) -> int:
    return int(_bits(tensor.reshape(-1)).sum(dtype=torch.int64).item())
