"""Any part of any tensor in a sharded checkpoint, whoever wrote it, and without a model of that shape.

Only the pieces that touch the wanted part are read, one at a time, with `weights_only`; the index goes through
`check_index` first. Nothing else of the checkpoint is opened: megatron-core's `common.pt` holds pickled arguments.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.distributed._shard._utils import narrow_tensor_by_index
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadPlan, ReadItem
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from retro.common.errors import ArtifactError
from retro.mcore.checkpoint import check_index


class StoredTensors:
    """The tensors of a `torch_dist` checkpoint."""

    def __init__(self, directory: Path) -> None:
        """Read the index.

        Raises:
            ArtifactError: It is missing, damaged, or holds anything but an index.
        """
        check_index(directory)
        self.directory = directory
        self._reader = FileSystemReader(str(directory))
        index = self._reader.read_metadata()
        self._reader.set_up_storage_reader(index, is_coordinator=True)
        entries = index.state_dict_metadata.items()
        self._tensors = {name: entry for name, entry in entries if isinstance(entry, TensorStorageMetadata)}
        self.sizes = {name: tuple(entry.size) for name, entry in self._tensors.items()}

    def read(self, name: str, part: tuple[slice, ...]) -> Tensor:
        """One part of a tensor.

        Raises:
            ArtifactError: A file is missing or damaged, or the checkpoint does not hold all of the part.
        """
        entry = self._tensors[name]
        offsets, sizes = [axis.start for axis in part], [axis.stop - axis.start for axis in part]
        target = torch.empty(sizes, dtype=entry.properties.dtype)
        chunk = ChunkStorageMetadata(offsets=torch.Size(offsets), sizes=torch.Size(sizes))
        items = create_read_items_for_chunk_list(name, entry, [chunk])
        if sum(item.lengths.numel() for item in items) != target.numel():
            raise self._cannot_be_read(name, "parts of it are missing")
        try:
            self._reader.read_data(LoadPlan(items), _Into(target))
        # A file cut short fails in whichever of torch's readers comes upon it.
        except (OSError, RuntimeError, EOFError, KeyError, ValueError, AssertionError) as error:
            raise self._cannot_be_read(name, " ".join(str(error).split())[:200] or type(error).__name__) from None
        return target

    def _cannot_be_read(self, name: str, why: str) -> ArtifactError:
        return ArtifactError(self.directory, f"{name} cannot be read: {why}", "Fetch the checkpoint again")


class _Into(DefaultLoadPlanner):
    """Tells torch's reader where each piece goes."""

    def __init__(self, target: Tensor) -> None:
        super().__init__()
        self.target = target

    def resolve_tensor(self, read_item: ReadItem) -> Tensor:
        """The place of a piece."""
        return narrow_tensor_by_index(self.target, read_item.dest_offsets, read_item.lengths)
