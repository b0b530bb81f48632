"""Any part of any tensor in a sharded checkpoint, whoever wrote it, and without a model of that shape.

Only the pieces that touch the wanted part are read, one at a time.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from retro.common.errors import ArtifactError
from retro.common.plain_pickle import PickleError
from retro.mcore.tensor_index import IndexedTensor, Piece, read_index
from retro.mcore.torch_files import TorchFile


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
