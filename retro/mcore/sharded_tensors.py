"""Parts of the tensors of a sharded checkpoint: filled from elsewhere, or read from files whoever wrote them.

Only the pieces that touch the wanted part are read, one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from megatron.core.dist_checkpointing.mapping import ShardedBase, ShardedTensor, ShardedTensorFactory
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
