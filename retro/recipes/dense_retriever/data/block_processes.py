"""Blocks of a step made by several processes of this machine: each takes the next that nobody has.

They are joined by the step's folder alone (`retro.common.coordinator`): one may die, and the others do its work.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from retro.common.block_stage import Advance
from retro.common.blocks import Block, BlockStore
from retro.common.coordinator import Coordinator
from retro.common.errors import RetroError
from retro.common.launcher import SPAWNED, Worker, end_with_parent

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PlannedBlocks:
    """What is to be made."""

    store: BlockStore
    sizes: Sequence[int]
    """Units of each block."""
    unit: str
    make: Callable[[int, Advance], Block]
    what: str
    """Shown with the progress."""


class BlockPlan(Protocol):
    """What another process is given: a value that can be pickled, and that plans the same blocks there."""

    @property
    def directory(self) -> Path:
        """The step's folder."""

    def planned(self) -> PlannedBlocks:
        """The blocks."""


def build_blocks(plan: BlockPlan, workers: int) -> BlockStore:
    """Make all blocks of a plan that are not there.

    Args:
        plan: What to make.
        workers: Processes, this one included.

    Raises:
        RetroError: As making a block says.
    """
    planned = plan.planned()
    with _companions(plan, min(workers, max(len(planned.store), 1))):
        _build(plan, planned, Worker(0, workers))
    return planned.store


def _build(plan: BlockPlan, planned: PlannedBlocks, worker: Worker) -> None:
    Coordinator(plan.directory, worker, stage=planned.store.stage, poll_s=0.05).build(
        planned.store, planned.make, sizes=planned.sizes, unit=planned.unit, what=planned.what
    )


@contextmanager
def _companions(plan: BlockPlan, workers: int) -> Iterator[None]:
    """Have further processes build while the block runs; they are ended when it is left, since all is there then."""
    # Not a fork: libraries that compute have threads by now.
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_companion, args=(plan, Worker(rank, workers), os.getpid()), daemon=True)
        for rank in range(1, workers)
    ]
    for process in processes:
        process.start()
    try:
        yield
        for process in processes:
            if process.exitcode:
                log.warning("a worker ended with exit code %d; the others did its work", process.exitcode)
    finally:
        for process in processes:
            process.kill()
            process.join()


def _companion(plan: BlockPlan, worker: Worker, parent: int) -> None:
    os.environ[SPAWNED] = str(parent)
    # One core each: the library of tokenizers would take all of them in every process.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    end_with_parent()
    try:
        _build(plan, plan.planned(), worker)
    except RetroError:
        # The first process comes to the same block then, and says what is wrong with it.
        sys.exit(1)
