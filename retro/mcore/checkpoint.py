"""Sharded checkpoints in the form of megatron.core.dist_checkpointing, loaded without executing code from them.

megatron-core writes them. It does not read them: it and torch would unpickle the index and what all ranks share, and
so call whatever is named there. `sharded_tensors.py` reads the tensors instead; `fill` puts each rank's part into its
place.
"""

from __future__ import annotations

import inspect
import queue
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy
from megatron.core.dist_checkpointing.utils import extract_nonpersistent, extract_sharded_base
from torch.distributed.checkpoint.api import CheckpointException

from retro.common.artifacts import describe_files
from retro.common.errors import ArtifactError
from retro.common.plain_pickle import PickleError, plain_values
from retro.mcore.cpu import on_cpu
from retro.mcore.parallel import gather_objects
from retro.mcore.sharded_tensors import StoredTensors, Sums, difference, fill, shards, sums_of
from retro.mcore.torch_files import TorchFile

COMMON = "common.pt"
"""What all ranks share, beside the tensors: plain values."""
_REMEDY = "Use an older checkpoint"
# Since 0.17 another package plans and writes, unless megatron-core's own way is asked for.
_STRATEGY = (
    {"async_strategy": "mcore"} if "async_strategy" in inspect.signature(dist_checkpointing.save).parameters else {}
)


class AsyncSave:
    """A sharded state dict on its way to disk, written by a thread of this process.

    megatron-core writes in forked processes and keeps another for their results, which costs 3 s and 270 MB and
    outlives a killed run for ever. Its planning and its writer are used here, with a thread and ordinary queues.
    Every rank creates one and calls its methods, in the same order.
    """

    def __init__(
        self, state: dict[str, Any], directory: Path, *, sums: Sums | None = None, background: bool = False
    ) -> None:
        """Plan, copy what changes, and begin to write into an empty directory.

        Args:
            state: The sharded state dict.
            directory: Where to; empty.
            sums: Of the state as memory holds it now; taken here, unless given.
            background: Copy tensors that are in host memory first, so that training may continue and change them.

        Raises:
            RuntimeError: Planning failed; the system's words are in it.
        """
        self.directory = directory
        self._files: dict[str, Any] = {}
        self._sums = dict(sums_of(state) if sums is None else sums)
        self._problem = ""
        # A queue of its own: results that a failed saving left would be taken for this one's.
        filesystem_async._results_queue = queue.Queue()
        strategy = TorchDistSaveShardedStrategy("torch_dist", 1, thread_count=1)
        _, common = extract_sharded_base(extract_nonpersistent(state)[1])
        with _as_runtime_error():
            self._request = dist_checkpointing.save(
                state, str(directory), strategy, async_sharded_save=True, **_STRATEGY
            )
        # Since 0.19 they are among the tensors, in a pickle. In a file of their own, every release's are read alike.
        if torch.distributed.get_rank() == 0 and not (directory / COMMON).exists():
            torch.save(common, directory / COMMON)
        buckets = self._request.preload_fn() if self._request.preload_fn is not None else []
        if background and on_cpu():
            # From a GPU they have been copied already.
            buckets = [_copied(bucket) for bucket in buckets]
        self._thread = threading.Thread(target=self._write, args=(buckets,), name="checkpoint")
        self._thread.start()

    def written(self) -> bool:
        """Whether this rank's part is on disk, or has failed."""
        return not self._thread.is_alive()

    def finish(self) -> dict[str, Any]:
        """Wait for all ranks and complete the directory.

        Returns:
            Size and SHA-256 of every rank's files, by name.

        Raises:
            RuntimeError: Writing failed on a rank; the system's words are in it.
            ArtifactError: The files do not hold what memory held; on every rank.
        """
        self._thread.join()
        with _as_runtime_error():
            for finalize in self._request.finalize_fns:
                finalize()
        problem = next((one for one in gather_objects(self._problem) if one), "")
        if problem:
            remedy = "Check disk and memory, then run the same command again: it resumes from the previous checkpoint"
            raise ArtifactError(self.directory, problem, remedy)
        return {name: known for files in gather_objects(self._files) for name, known in files.items()}

    def _write(self, buckets: list[Any]) -> None:
        if not buckets:
            return
        try:
            found = self._written(buckets)
        # The rank that waits for this one's results would wait for ever.
        except (OSError, RuntimeError, ValueError, PickleError) as error:
            found = _of_the_system(error)
        self._request.async_fn_args[2].put(found)

    def _written(self, buckets: list[Any]) -> dict[int, Any] | BaseException:
        """What torch's writer says of each bucket, in order; or why it failed."""
        found: dict[int, Any] = {}
        for number, bucket in enumerate(buckets):
            results: queue.Queue[Any] = queue.Queue()
            pending: queue.Queue[Any] = queue.Queue()
            pending.put(number)
            transforms = self._request.async_fn.args[0]
            FileSystemWriterAsync.write_preloaded_data(transforms, number, bucket, results, pending, True)
            _, written = results.get()
            if isinstance(written, Exception):
                return _of_the_system(written)
            found[number] = written
            self._problem = self._problem or difference(self.directory, bucket, written, self._sums)
            self._files |= describe_files(self.directory, [Path(bucket[0]).name])
        if self._sums and not self._problem:
            self._problem = f"{min(self._sums)[0]} was not written"
        return found


def _of_the_system(error: BaseException) -> BaseException:
    """What went wrong first: torch's writer fails once more while it gives up, with words that say nothing."""
    while error.__context__ is not None:
        error = error.__context__
    return error


@contextmanager
def _as_runtime_error() -> Iterator[None]:
    # torch's own exception is not an Exception, so nothing above would see it.
    try:
        yield
    except CheckpointException as error:
        raise RuntimeError(str(error)) from None


def _copied(bucket: Any) -> Any:
    path, key, (objects, tensors) = bucket
    return path, key, (objects, [(item, tensor.clone()) for item, tensor in tensors])


def save(state: dict[str, Any], directory: Path) -> dict[str, Any]:
    """Write a sharded state dict into an empty directory and wait for it. Every rank calls this.

    Returns:
        Size and SHA-256 of every rank's files, by name.

    Raises:
        RuntimeError: Writing failed; the system's words are in it.
    """
    return AsyncSave(state, directory).finish()


def load(state: dict[str, Any], directory: Path) -> dict[str, Any]:
    """Fill a sharded state dict from a checkpoint; each rank reads its own part of every tensor.

    Returns:
        The state with plain tensors, and the values that were saved beside them.

    Raises:
        ArtifactError: The checkpoint is damaged, holds something other than tensors and plain values, or lacks a
            tensor of the state.
    """
    stored = StoredTensors(directory)
    require_sizes(state, stored.sizes, directory)
    return read_common(directory) | fill(state, stored.read)


def require_sizes(state: dict[str, Any], sizes: Mapping[str, tuple[int, ...]], path: Path) -> None:
    """Check that every tensor of a sharded state is there, in its whole size.

    Raises:
        ArtifactError: The first that is not is named.
    """
    for shard in shards(state):
        found = sizes.get(shard.key)
        if found is None:
            raise ArtifactError(path, f"cannot be loaded: {shard.key} is missing", _REMEDY)
        if found != tuple(shard.global_shape):
            problem = f"cannot be loaded: {shard.key} is {list(found)} there, {list(shard.global_shape)} in the model"
            raise ArtifactError(path, problem, _REMEDY)


def read_common(directory: Path) -> dict[str, Any]:
    """The plain values beside the tensors of a checkpoint.

    Raises:
        ArtifactError: They are missing or damaged, or there is something other than plain values.
    """
    path = directory / COMMON
    try:
        found = plain_values(TorchFile(path).value)
    except FileNotFoundError:
        raise ArtifactError(path, "is missing: the checkpoint was cut short", _REMEDY) from None
    except OSError as error:
        raise ArtifactError(path, f"cannot be read ({error.strerror})", _REMEDY) from None
    except PickleError as error:
        raise ArtifactError(path, f"cannot be read safely: {error}", _REMEDY) from None
    if not isinstance(found, dict):
        raise ArtifactError(path, f"holds a {type(found).__name__}, needs values by name", _REMEDY)
    return found
