"""Micro batches as tensors, on the ranks that need them.

The first of the tensor parallel ranks reads, the others receive; a pipeline stage reads only what its layers use: the
first one tokens and neighbors, the last one labels, any stage of a Retro the neighbors' masks.

A step waits for its samples only where reading them takes longer than computing the step before. What is read does not
depend on when: the same requests give the same results, with or without a thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from types import TracebackType
from typing import Any, Generic, Self, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retro.mcore import parallel
from retro.mcore.engine import Work
from retro.model.config import ModelShape
from retro.model.model import RetroModel
from retro.model.transport import transport_rows
from retro.training.batch import Batch, BatchSource

Result = TypeVar("Result")
Numbers = NDArray[np.int64]


class Prefetcher(Generic[Result]):
    """Calls `read` for numbers that are expected to be asked for, before they are.

    Attributes:
        waited_s: Seconds that `get` took, in all.
    """

    def __init__(self, read: Callable[[Numbers], Result]) -> None:
        self._read = read
        self._executor: ThreadPoolExecutor | None = None
        self._expected: tuple[Numbers, Future[Result]] | None = None
        self.waited_s = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def expect(self, numbers: Numbers) -> None:
        """Start to read what the next `get` is likely to ask for."""
        self._settle()
        # The thread is made when it is first of use: what is read once needs none.
        self._executor = self._executor or ThreadPoolExecutor(max_workers=1, thread_name_prefix="read-ahead")
        self._expected = numbers.copy(), self._executor.submit(self._read, numbers)

    def get(self, numbers: Numbers) -> Result:
        """What `read` gives for `numbers`, or raises for them."""
        started = time.perf_counter()
        try:
            if self._expected is not None and np.array_equal(self._expected[0], numbers):
                future, self._expected = self._expected[1], None
                return future.result()
            self._settle()
            return self._read(numbers)
        finally:
            self.waited_s += time.perf_counter() - started

    def close(self) -> None:
        """Wait for the thread to end; what it reads is dropped."""
        self._settle()
        if self._executor is not None:
            self._executor.shutdown()
            self._executor = None

    def _settle(self) -> None:
        """Drop what nobody asked for, its errors too: a source is never read by two threads at a time."""
        if self._expected is not None:
            (_, future), self._expected = self._expected, None
            if not future.cancel():
                future.exception()


# Dims: B sequences of a micro batch, S tokens, L chunks, K neighbors, R tokens of a neighbor.


T = TypeVar("T", bound=np.generic)
Arrays: TypeAlias = dict[str, NDArray[Any] | None]

_FURTHER = "further "
"""Before the names of arrays of `Batch.further`, among those of the batch itself."""
READ_TOGETHER = 128
"""Sequences read in one call: from 64 on the cost of each is about the same (30 us; 45 us with 8, 130 us with 1)."""


@dataclass(frozen=True)
class MicroBatch:
    """A batch on the device; None is what this stage does not use, or what the batch does not have."""

    tokens_BS: Tensor | None
    labels_BS: Tensor | None
    loss_mask_BS: Tensor | None
    neighbors_BLKR: Tensor | None
    neighbor_mask_BLKR: Tensor | None
    token_mask_BS: Tensor | None
    segments_BS: Tensor | None
    further: Mapping[str, Tensor] = field(default_factory=dict)
    """What the batch brings for a loss of one's own."""


class DataLoader:
    """Turns sample numbers into work for this rank's layers.

    Reading may be ahead: after `expect`, the next work's samples are read while this one's are computed with. Only
    reading is; what other ranks take part in happens in `work`, in the order of the calls.
    """

    def __init__(self, source: BatchSource, shape: ModelShape, chunks: Sequence[RetroModel], micro_batch: int) -> None:
        """Decide what to read.

        Args:
            source: Samples by number.
            shape: The model.
            chunks: This rank's groups of layers.
            micro_batch: Sequences in one pass, B.
        """
        self.source, self.shape, self.micro_batch = source, shape, micro_batch
        first, last = any(chunk.pre_process for chunk in chunks), any(chunk.post_process for chunk in chunks)
        reads = shape.model.retrieval and source.form.neighbors > 0
        uniform = source.form.sequence_length is not None
        # Where batches differ, their tokens say how long they are.
        self._unused = {
            "tokens_BS": uniform and not first,
            "labels_BS": not last,
            "loss_mask_BS": not last,
            "neighbors_BLKR": not (first and reads),
            "neighbor_mask_BLKR": not reads,
            "token_mask_BS": uniform,
            "segments_BS": uniform,
        }
        _, stages = parallel.pipeline_rank()
        self._of_one_length = stages > 1 and not uniform
        self._uniform = uniform
        # The first of the tensor parallel ranks reads for all.
        self._reads = parallel.tensor_parallel_rank()[0] == 0 and not all(self._unused.values())
        self._ahead = Prefetcher(self._read)
        self.tokens = 0
        """Tokens of all work on this rank so far, padding included."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ahead.close()

    @property
    def waited_s(self) -> float:
        """Seconds that `work` has waited for samples on this rank, in all."""
        return self._ahead.waited_s

    def expect(self, numbers: NDArray[np.int64]) -> None:
        """Start to read the samples that the next `work` asks for."""
        if self._reads:
            self._ahead.expect(numbers)

    def work(self, numbers: NDArray[np.int64]) -> Work[MicroBatch]:
        """Work on samples, on ranks of this data parallel rank alike.

        Args:
            numbers: Of the samples, a multiple of the micro batch; -1 stands for one that does not count.
        """
        batches: Sequence[Arrays | None] = [None] * (len(numbers) // self.micro_batch)
        if self._reads:
            batches = self._ahead.get(numbers)
        micro_batches = [self._micro_batch(batch) for batch in batches]
        self.tokens += sum(self._length(one) * self.micro_batch for one in micro_batches)
        return Work(micro_batches, self._transport_rows(micro_batches[0]), self.micro_batch)

    def _read(self, numbers: NDArray[np.int64]) -> list[Arrays]:
        """The arrays of every micro batch that this stage uses."""
        if self._uniform:
            batches = read_together(self.source, numbers, self.micro_batch)
        else:
            parts = np.split(numbers, len(numbers) // self.micro_batch)
            batches = [fetch(self.source, part) for part in parts]
        if self._of_one_length:
            batches = to_one_length(batches, self.shape.chunk_length)
        return [self._used(batch) for batch in batches]

    def _used(self, batch: Batch) -> Arrays:
        own = {name: None if unused else _contiguous(getattr(batch, name)) for name, unused in self._unused.items()}
        return own | {f"{_FURTHER}{name}": _contiguous(array) for name, array in batch.further.items()}

    def _micro_batch(self, arrays: Arrays | None) -> MicroBatch:
        if all(self._unused.values()):
            nothing: dict[str, Any] = dict.fromkeys(self._unused)
            return MicroBatch(**nothing)
        tensors = parallel.broadcast_arrays(arrays)
        # Token files hold narrow numbers; they are widened where they are used, once they have travelled.
        wide = {name: _widened(tensor) for name, tensor in tensors.items()}
        own: dict[str, Any] = {name: wide.pop(name) for name in self._unused}
        return MicroBatch(
            **own, further={name.removeprefix(_FURTHER): one for name, one in wide.items() if one is not None}
        )

    def _length(self, one: MicroBatch) -> int:
        length = self.source.form.sequence_length
        # Where batches differ, every stage has their tokens.
        return one.tokens_BS.size(1) if length is None else length  # type: ignore[union-attr]

    def _transport_rows(self, one: MicroBatch) -> int:
        length = self._length(one)
        reads = not self._unused["neighbor_mask_BLKR"]
        chunks = length // self.shape.chunk_length if reads else 0
        return transport_rows(length, chunks, self.source.form.neighbors, self.shape.retrieved_length)


def fetch(source: BatchSource, numbers: NDArray[np.int64]) -> Batch:
    """The samples of these numbers; for each -1 any sample, its labels not counted."""
    counts_B = numbers >= 0
    stand_in = numbers[counts_B][0] if counts_B.any() else 0
    batch = source.fetch(np.where(counts_B, numbers, stand_in))
    if counts_B.all():
        return batch
    return replace(batch, loss_mask_BS=batch.loss_mask_BS * counts_B[:, None].astype(np.float32))


def read_together(source: BatchSource, numbers: NDArray[np.int64], micro_batch: int) -> list[Batch]:
    """Micro batches of one length, many of them read at a time.

    A look-up costs about as much for one sequence as for dozens; beyond, batches only take memory.
    """
    together = max(READ_TOGETHER // micro_batch, 1) * micro_batch
    batches: list[Batch] = []
    for first in range(0, len(numbers), together):
        batch = fetch(source, numbers[first : first + together])
        starts = range(0, len(batch.tokens_BS), micro_batch)
        batches += [_rows(batch, slice(start, start + micro_batch)) for start in starts]
    return batches


def _rows(batch: Batch, rows: slice) -> Batch:
    arrays = {one.name: getattr(batch, one.name) for one in fields(Batch) if one.name != "further"}
    kept: dict[str, Any] = {name: None if array is None else array[rows] for name, array in arrays.items()}
    return Batch(**kept, further={name: array[rows] for name, array in batch.further.items()})


def to_one_length(batches: Sequence[Batch], chunk_length: int) -> list[Batch]:
    """Pad batches on the right to the longest of them: what travels between pipeline stages has one shape.

    Padding is real to nobody: it is not attended, has no neighbors, and its labels do not count.
    """
    longest = max(batch.tokens_BS.shape[1] for batch in batches)
    return [_padded(batch, longest, chunk_length) for batch in batches]


def _padded(batch: Batch, length: int, chunk_length: int) -> Batch:
    tokens = batch.tokens_BS.shape[1]
    real_BS, segments_BS = batch.token_mask_BS, batch.segments_BS
    if real_BS is None and segments_BS is None:
        real_BS = np.ones(batch.tokens_BS.shape, dtype=np.bool_)

    def longer(array: NDArray[T]) -> NDArray[T]:
        return np.pad(array, ((0, 0), (0, length - tokens)))

    def more_chunks(array: NDArray[T] | None) -> NDArray[T] | None:
        if array is None:
            return None
        missing = length // chunk_length - array.shape[1]
        return np.pad(array, ((0, 0), (0, missing), (0, 0), (0, 0)))

    return Batch(
        tokens_BS=longer(batch.tokens_BS),
        labels_BS=longer(batch.labels_BS),
        loss_mask_BS=longer(batch.loss_mask_BS),
        neighbors_BLKR=more_chunks(batch.neighbors_BLKR),
        neighbor_mask_BLKR=more_chunks(batch.neighbor_mask_BLKR),
        token_mask_BS=None if real_BS is None else longer(real_BS),
        segments_BS=None if segments_BS is None else longer(segments_BS),
        further=batch.further,
    )


def _contiguous(array: NDArray[T] | None) -> NDArray[T] | None:
    return None if array is None else np.ascontiguousarray(array)


def _widened(tensor: Tensor | None) -> Tensor | None:
    return tensor.long() if tensor is not None and tensor.dtype == torch.int32 else tensor
