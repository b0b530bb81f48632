"""Parts of the tensors of a sharded checkpoint: filled from elsewhere, or read from files whoever wrote them.

Only the pieces that touch the wanted part are read, one at a time.

Writers have been seen to save old weights without a word: copies that were made too early, buffers used twice. So each
tensor of the state is summed up in memory, where the model computes, before anything is planned or copied; and what was
written is read back and compared.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from megatron.core.dist_checkpointing.mapping import ShardedBase, ShardedTensor, ShardedTensorFactory, is_main_replica
from torch import Tensor

from retro.common.errors import ArtifactError
from retro.common.plain_pickle import PickleError
from retro.mcore.tensor_index import IndexedTensor, Piece, read_index
from retro.mcore.torch_files import TorchFile

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


class StoredTensors:
    """The tensors of a `torch_dist` checkpoint."""

    def __init__(self, directory: Path) -> None:
        """Read the index, once.

        Raises:
            ArtifactError: It is missing, damaged, or holds anything but an index.
        """
        self.directory = directory
        self._tensors = read_index(directory)
        self.sizes = {name: entry.size for name, entry in self._tensors.items()}

    def read(self, name: str, part: tuple[slice, ...]) -> Tensor:
        """One part of a tensor.

        Raises:
            ArtifactError: A file is missing or damaged, or the checkpoint does not hold all of the part.
        """
        entry = self._tensors[name]
        if len(part) != len(entry.size) or any(
            not 0 <= axis.start <= axis.stop <= length for axis, length in zip(part, entry.size, strict=True)
        ):
            raise self._cannot_be_read(name, "parts of it are missing")
        target = torch.zeros([axis.stop - axis.start for axis in part], dtype=entry.dtype)
        try:
            for piece in entry.pieces:
                self._copy(piece, entry, part, target)
        except (OSError, PickleError) as error:
            raise self._cannot_be_read(name, str(error)) from None
        return target

    def _copy(self, piece: Piece, entry: IndexedTensor, part: tuple[slice, ...], target: Tensor) -> None:
        """Fill what a piece has of a part."""
        ranges = [
            (max(axis.start, first), min(axis.stop, first + length))
            for axis, first, length in zip(part, piece.offsets, piece.sizes, strict=True)
        ]
        if any(start >= stop for start, stop in ranges):
            return
        file = TorchFile(piece.path, piece.start, piece.length)
        stored = file.tensor(file.value)
        if stored is None or stored.size != piece.sizes or stored.dtype != entry.dtype:
            raise PickleError("its file holds another tensor than the index says")
        inside = [
            slice(start - first, stop - first) for (start, stop), first in zip(ranges, piece.offsets, strict=True)
        ]
        own = [slice(start - axis.start, stop - axis.start) for (start, stop), axis in zip(ranges, part, strict=True)]
        found = stored.read(inside[0])[(slice(None), *inside[1:])] if inside else stored.read()
        target[tuple(own)] = found

    def _cannot_be_read(self, name: str, why: str) -> ArtifactError:
        return ArtifactError(self.directory, f"{name} cannot be read: {why}", "Fetch the checkpoint again")


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
