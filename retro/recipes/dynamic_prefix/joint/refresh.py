"""The index of a retriever that is being trained: built again from snapshots, in the background, at fixed steps.

    step      1 .................. s   s+1 ................ s+delay ............... s+every
    training  index of snapshot 0      index of snapshot 0  index of snapshot s ...
    thread                             embeds all documents with the weights after step s, builds the index

Snapshot s, a multiple of `every`, is the retriever's weights after s steps. A thread embeds all documents with them
while training goes on, with the index before; from step s + delay on the index of s is used, and waited for if it is
not finished. So which index a step uses follows from the step alone, and results do not depend on how fast a build is.
What is asynchronous is the embedding and the building; what is used when is not.

Snapshots are on disk before a checkpoint of a later step is, so a run that was killed builds the index that its next
step uses, and the one that was being built, of the same weights: it goes on with the bytes of an unbroken run.

Questions are embedded by the snapshot too, not by the weights of the moment: they are read one step ahead, in a thread,
and what they find must not depend on how far training is by then. The probabilities of the documents found are those of
the weights of the moment, as in REALM.
"""

# Dims in this file. N documents   R texts of a batch   Q questions   K documents found   E width of a vector

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from retro.common.errors import ArtifactError, short_reason
from retro.common.files import atomic_path
from retro.common.progress import duration
from retro.index.faiss_loader import load_faiss
from retro.recipes.dynamic_prefix.joint.config import FIRST_USE

log = logging.getLogger(__name__)

Weights = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Which snapshot's index a step uses. Steps count from 1; snapshot s is the weights after step s."""

    every: int
    """Steps between two snapshots; 0: there is only that of the start."""
    delay: int
    """Steps from a snapshot to the first step that uses it."""

    def __post_init__(self) -> None:
        if self.every and not FIRST_USE <= self.delay < self.every:
            raise ValueError(f"a delay of {self.delay} steps needs to be from {FIRST_USE} to below {self.every}")

    def snapshot_of(self, step: int) -> int:
        """The snapshot that step `step` uses: the last s with s + delay <= step."""
        return max(step - self.delay, 0) // self.every * self.every if self.every else 0

    def taken_after(self, step: int) -> bool:
        """Whether the weights after `step` steps are a snapshot."""
        return step % self.every == 0 if self.every else step == 0

    def uses(self, steps: int) -> list[dict[str, int]]:
        """Of a run of that many steps: each snapshot used, by which steps, and how many steps its weights are behind
        those of the first and the last of them."""
        found = []
        for snapshot in range(0, self.snapshot_of(steps) + 1, self.every or steps):
            first = snapshot + self.delay if snapshot else 1
            last = min(snapshot + self.every + self.delay - 1, steps) if self.every else steps
            # Step t computes with the weights after t - 1 steps.
            behind = {"stale_first": first - 1 - snapshot, "stale_last": last - 1 - snapshot}
            found.append({"snapshot": snapshot, "first_step": first, "last_step": last, **behind})
        return found


class Searcher(Protocol):
    """The index of a snapshot."""

    def search(self, questions: Sequence[str], k: int) -> NDArray[np.int64]:
        """[Q, K] rows of the documents of greatest inner product, best first."""


Build = Callable[[nn.Module], Searcher]
"""From a retriever in evaluation mode to the index of all documents. Called in a thread; draws nothing at random."""


class IndexRefresher:
    """Takes snapshots, builds their indexes in a thread, and gives each step the index that it has to use."""

    def __init__(self, folder: Path, schedule: Schedule, build: Build, *, steps: int, kept: int = 0) -> None:
        """Set up; nothing is built.

        Args:
            folder: Where snapshots are kept.
            schedule: Which step uses which.
            build: Makes an index.
            steps: Of the run: an index that is used by none of them is not built.
            kept: A snapshot is deleted when no step after `kept` steps before the newest snapshot uses it: how far
                back the oldest checkpoint may be that training could continue from. 0: none is deleted.
        """
        self._folder, self.schedule, self._build, self._steps = folder, schedule, build, steps
        self._kept = kept
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="refresh")
        self._indexes: dict[int, Future[Searcher]] = {}
        self._lock, self._stop = Lock(), Event()
        self._template: nn.Module | None = None
        self.waited_s = 0.0
        """Seconds that training waited for indexes."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.shutdown(cancel_futures=True)

    @property
    def stopped(self) -> bool:
        """Whether training has ended, so that whoever builds an index may leave off."""
        return self._stop.is_set()

    def set_up(self, retriever: nn.Module) -> None:
        """Keep a copy of the retriever to fill with a snapshot's weights, before it is wrapped for training."""
        self._template = copy.deepcopy(retriever).requires_grad_(False).eval()

    def path(self, snapshot: int) -> Path:
        """Where a snapshot is."""
        return self._folder / f"step_{snapshot:08d}.safetensors"

    def publish(self, snapshot: int, retriever: nn.Module, *, writes: bool = True, builds: bool = True) -> None:
        """Take a snapshot and begin to build its index. Called in the training thread, by every process.

        Args:
            snapshot: Steps that the retriever has been trained.
            retriever: Its weights are copied before this returns.
            writes: Whether this process writes it to disk: one of those that train together.
            builds: Whether this process searches, and needs the index.
        """
        weights = {name: one.detach().cpu().clone() for name, one in retriever.state_dict().items()}
        if writes:
            self._folder.mkdir(parents=True, exist_ok=True)
            with atomic_path(self.path(snapshot)) as temporary:
                save_file(weights, str(temporary))
            self._forget(snapshot)
        with self._lock:
            if builds and snapshot not in self._indexes and snapshot <= self.schedule.snapshot_of(self._steps):
                self._indexes[snapshot] = self._thread.submit(self._built, snapshot, weights)
            # Steps go on: nobody asks for an index before the one that this step uses.
            used = self.schedule.snapshot_of(snapshot + 1)
            for old in [one for one in self._indexes if one < used]:
                del self._indexes[old]

    def index_of(self, step: int) -> Searcher:
        """The index that a step uses, once it is built.

        Raises:
            ArtifactError: A run that was stopped continues without its snapshot.
        """
        snapshot = self.schedule.snapshot_of(step)
        with self._lock:
            if snapshot not in self._indexes:
                self._indexes[snapshot] = self._thread.submit(self._built, snapshot, self.read(snapshot))
            future = self._indexes[snapshot]
        started = time.monotonic()
        found = future.result()
        self.waited_s += time.monotonic() - started
        return found

    def read(self, snapshot: int) -> dict[str, Tensor]:
        """The weights of a snapshot, from disk.

        Raises:
            ArtifactError: The file is missing or damaged.
        """
        path, remedy = self.path(snapshot), "Run the step again with --redo"
        if not path.is_file():
            raise ArtifactError(path, "is missing, and the index that training continues with is built from it", remedy)
        try:
            return load_file(str(path))
        except (SafetensorError, OSError) as error:
            raise ArtifactError(path, f"is not a whole snapshot ({short_reason(error)})", remedy) from None

    def _built(self, snapshot: int, weights: Weights) -> Searcher:
        if self._template is None:
            raise ValueError("the refresher has no retriever: call set_up first")
        started = time.monotonic()
        retriever = copy.deepcopy(self._template)
        retriever.load_state_dict(dict(weights))
        found = self._build(retriever)
        first = max(snapshot + self.schedule.delay, 1) if snapshot else 1
        log.info(
            "index of the retriever after step %d built in %s, used from step %d on, %d steps behind",
            snapshot, duration(time.monotonic() - started), first, first - 1 - snapshot,
        )  # fmt: skip
        return found

    def _forget(self, newest: int) -> None:
        if not self._kept:
            return
        oldest = self.schedule.snapshot_of(max(newest - self._kept, 0) + 1)
        for path in self._folder.glob("step_*.safetensors"):
            if int(path.stem.removeprefix("step_")) < oldest:
                path.unlink()


class FlatIndex:
    """Every document's vector, compared one by one (Faiss, IndexFlatIP): 4 bytes per value in memory."""

    def __init__(self, vectors_NE: NDArray[np.float32], embed: Callable[[Sequence[str]], NDArray[np.float32]]) -> None:
        """Fill it.

        Args:
            vectors_NE: One of each document.
            embed: From questions to [Q, E] vectors.
        """
        faiss: Any = load_faiss()
        self._index, self._embed = faiss.IndexFlatIP(vectors_NE.shape[1]), embed
        self._index.add(np.ascontiguousarray(vectors_NE, dtype=np.float32))
        self._lock = Lock()

    def search(self, questions: Sequence[str], k: int) -> NDArray[np.int64]:
        """See `Searcher`."""
        # Training reads ahead in one thread while validation searches from another.
        with self._lock, torch.inference_mode():
            vectors_QE = np.ascontiguousarray(self._embed(questions), dtype=np.float32)
            _, rows_QK = self._index.search(vectors_QE, k)
        found: NDArray[np.int64] = rows_QK.astype(np.int64)
        return found
