"""Sharded checkpoints through megatron.core.dist_checkpointing, loaded without executing code from them.

The format keeps its index of tensors as a pickle (`.metadata`), which torch reads without restriction. So it is read
here first by an unpickler that knows only the handful of types such an index is made of; anything else is refused
before torch sees the file. The other parts are tensors, read with `weights_only`.
"""

from __future__ import annotations

import pickle
import queue
from pathlib import Path
from typing import Any

import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader

from retro.common.errors import ArtifactError

_ALLOWED = {
    "builtins": {"set", "frozenset", "slice", "list", "dict", "tuple", "complex"},
    "collections": {"OrderedDict", "defaultdict"},
    "datetime": {"timedelta"},
    "pathlib": {"Path", "PosixPath", "PurePosixPath"},
    "pathlib._local": {"Path", "PosixPath", "PurePosixPath"},
    "torch": {"Size", "device"},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.planner": {
        "BytesIOWriteData",
        "SavePlan",
        "TensorWriteData",
        "WriteItem",
        "WriteItemType",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo", "_StoragePrefix"},
}
_DTYPES = {name for name in dir(torch) if isinstance(getattr(torch, name), torch.dtype)}


class _IndexUnpickler(pickle.Unpickler):
    """Knows the types of a checkpoint's index and no others."""

    def find_class(self, module: str, name: str) -> Any:
        if name in _ALLOWED.get(module, ()) or (module == "torch" and name in _DTYPES):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which an index of tensors has no use for")


def check_index(directory: Path) -> None:
    """Refuse a checkpoint whose index is missing, damaged, or holds anything but an index.

    Raises:
        ArtifactError: With what was found.
    """
    path = directory / ".metadata"
    remedy = "Use an older checkpoint, or fetch this one again from a source you trust"
    try:
        with path.open("rb") as stream:
            _IndexUnpickler(stream).load()
    except FileNotFoundError:
        raise ArtifactError(path, "is missing: the checkpoint was cut short or is of another format", remedy) from None
    except (pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError, KeyError, ValueError) as error:
        raise ArtifactError(path, f"cannot be read safely: {error}", remedy) from None


def save(state: dict[str, Any], directory: Path) -> None:
    """Write a sharded state dict into an empty directory, in this process. Every rank calls this.

    Raises:
        RuntimeError: Writing failed; the system's words are in it.
    """
    # megatron-core's writer keeps a manager process for its results, meant for saving in the background. It costs
    # 3 s and 270 MB, and outlives a killed run for ever; writing in this process, an ordinary queue does.
    if filesystem_async._results_queue is None:
        filesystem_async._results_queue = queue.Queue()
    strategy = TorchDistSaveShardedStrategy("torch_dist", 1, thread_count=1)
    try:
        dist_checkpointing.save(state, str(directory), strategy)
    except CheckpointException as error:
        # torch's own exception is not an Exception, so nothing above would see it.
        raise RuntimeError(str(error)) from None


def load(state: dict[str, Any], directory: Path) -> dict[str, Any]:
    """Fill a sharded state dict from a checkpoint. Every rank calls this.

    Raises:
        ArtifactError: The checkpoint is damaged, unsafe, or lacks a tensor the model needs.
    """
    check_index(directory)
    remedy = "Use an older checkpoint"
    try:
        return dist_checkpointing.load(state, str(directory))
    except pickle.UnpicklingError:
        raise ArtifactError(directory, "holds something other than tensors and was not loaded", remedy) from None
    except (RuntimeError, OSError, EOFError, KeyError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ArtifactError(directory, f"cannot be loaded: {first_line}", remedy) from None
    except dist_checkpointing.core.CheckpointingException as error:
        raise ArtifactError(directory, f"cannot be loaded: {' '.join(str(error).split())[:300]}", remedy) from None


def tensor_names(directory: Path) -> dict[str, tuple[int, ...]]:
    """Names and global shapes of the tensors in a checkpoint."""
    check_index(directory)
    metadata = FileSystemReader(str(directory)).read_metadata()
    return {name: tuple(entry.size) for name, entry in metadata.state_dict_metadata.items() if hasattr(entry, "size")}
