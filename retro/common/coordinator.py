"""Many workers on one stage, joined by nothing but a directory that all of them see.

Each worker runs the same stage with the same settings: processes of one machine, of torchrun, tasks of a Slurm array.
It builds blocks until every block is there: first its own share, then what nobody holds, so that a worker may die,
join late or be slow, and the others do its work. What must be done once (learning a vocabulary, joining the blocks) is
done by whoever comes first, while the others wait. Every worker ends when the stage is complete.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from typing_extensions import TypedDict

from retro.common.artifacts import Manifest, is_complete, read_manifest, write_manifest
from retro.common.block_stage import BlockWork, record_blocks, remove_temporary_files, remove_unlisted_files
from retro.common.blocks import Block, BlockStore
from retro.common.errors import ArtifactError
from retro.common.files import read_json, write_json
from retro.common.input_files import is_below
from retro.common.json_files import Count
from retro.common.launcher import ALONE, Worker
from retro.common.leases import WORKERS, Leases, remove_leases
from retro.common.progress import Progress

log = logging.getLogger(__name__)


class _PlanData(TypedDict):
    directory: str
    stage: str
    unit: str
    sizes: list[Count]
    inputs: list[str]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be built, written down for those who look on (`retro status`, `retro verify`)."""

    directory: str
    """Of the blocks, below the stage's."""
    stage: str
    unit: str
    sizes: tuple[int, ...]
    """Units of each block."""
    inputs: tuple[str, ...]
    """As the block store has them."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a plan.

        Raises:
            ArtifactError: It is damaged.
        """
        remedy = f"Delete {path.parent}"
        data = read_json(path, remedy, _PlanData)
        if len(data["sizes"]) != len(data["inputs"]) or not is_below(data["directory"]):
            raise ArtifactError(path, "is not a plan of blocks in a folder beside it", remedy)
        try:
            return cls(**data | {"sizes": tuple(data["sizes"]), "inputs": tuple(data["inputs"])})
        except TypeError as error:
            raise ArtifactError(path, f"is not a plan ({error})", remedy) from None

    def store(self, stage_directory: Path) -> BlockStore:
        """The planned blocks."""
        return BlockStore(directory=stage_directory / self.directory, inputs=self.inputs, stage=self.stage)


class Coordinator:
    """This worker among those that build the stage in one directory."""

    def __init__(self, directory: Path, worker: Worker = ALONE, *, stage: str, poll_s: float = 0.5) -> None:
        """Join.

        Args:
            directory: The stage's.
            worker: This process's place.
            stage: Its name, as the user types it.
            poll_s: How often to look, while others work on what is left.
        """
        self.directory, self.worker, self.stage, self.poll_s = directory, worker, stage, poll_s
        self.claims = Leases(directory / WORKERS)

    def build(
        self,
        store: BlockStore,
        make: Callable[[int, Callable[[int], None]], Block],
        *,
        sizes: Sequence[int],
        unit: str,
        what: str = "",
    ) -> int:
        """Build blocks together with the others, until all are there or the stage is complete.

        Args:
            store: The blocks.
            make: Makes block n; calls its second argument with units done.
            sizes: Units of each block.
            unit: What a unit is, in the plural.
            what: Shown with the progress; the stage's name, unless given.

        Returns:
            Units made by this worker.

        Raises:
            ArtifactError: A running worker builds the same stage under other settings, or the disk is full.
        """
        self._announce(store, sizes, unit)
        left = [number for number in self.worker.order(len(store)) if self._is_missing(store, number)]
        made = 0
        with Progress(sum(sizes), what=what or self.stage, unit=unit, done=sum(sizes) - _sum(sizes, left)) as bar:
            while left and not is_complete(self.directory):
                number = self._build_one(store, make, left, bar)
                made += 0 if number is None else sizes[number]
                there = store.present()
                others = {one for one in left if one in there and one != number and store.is_written(one)}
                bar.found(_sum(sizes, others))
                left = [one for one in left if one != number and one not in others]
                if number is None and left:
                    time.sleep(self.poll_s)
        return made

    def once(self, name: str, is_done: Callable[[], bool], make: Callable[[], object]) -> None:
        """Have something done by one worker.

        Args:
            name: Its name among the claims of this stage.
            is_done: Whether it is there.
            make: Makes it; must end with `is_done`.
        """
        while not is_done():
            with self.claims.claim(name) as mine:
                if mine and not is_done():
                    make()
                    return
            time.sleep(self.poll_s)

    def work(self, work: BlockWork, what: str = "") -> int:
        """Build the blocks of `work`; see `build`."""
        return self.build(work.store, work.make, sizes=work.sizes, unit=work.unit, what=what)

    def finish(self, join: Callable[[], Manifest], *works: BlockWork, scratch: Path | None = None) -> Manifest:
        """Have one worker complete the stage; every worker gets the manifest that is there then.

        A kill between any two steps loses nothing: the manifest is written when all else stands, and what it replaces
        is removed after it.

        Args:
            join: Makes the artifact from the blocks; gives the manifest to write.
            works: The blocks it is made from; removed at the end.
            scratch: A folder to remove too.

        Raises:
            ArtifactError: A block is damaged, what was joined is not what the blocks hold, or the disk is full.
        """

        def complete() -> None:
            remove_temporary_files(self.directory)
            manifest = join()
            record_blocks(self.directory, works)
            write_manifest(self.directory, manifest)
            for directory in (*(work.store.directory for work in works), *([scratch] if scratch else [])):
                shutil.rmtree(directory, ignore_errors=True)
            remove_unlisted_files(self.directory, manifest)

        self.once("finish", lambda: is_complete(self.directory), complete)
        remove_leases(self.directory)
        return read_manifest(self.directory, self.stage)

    def _is_missing(self, store: BlockStore, number: int) -> bool:
        # What this worker would have built it reads whole; of the others' share it believes the name until blocks
        # are joined, where each is read and checked anyway.
        own = number % self.worker.world == self.worker.rank
        return store.must_build(number) if own else not store.is_written(number)

    def _build_one(
        self, store: BlockStore, make: Callable[[int, Callable[[int], None]], Block], left: Sequence[int], bar: Progress
    ) -> int | None:
        for number in left:
            with self.claims.claim(f"{store.directory.name}.{number:06d}") as mine:
                if mine and not store.is_written(number) and not is_complete(self.directory):
                    store.write(number, make(number, bar.advance))
                    return number
        return None

    def _announce(self, store: BlockStore, sizes: Sequence[int], unit: str) -> None:
        plan = Plan(
            directory=str(store.directory.relative_to(self.directory)),
            stage=store.stage,
            unit=unit,
            sizes=tuple(sizes),
            inputs=store.inputs,
        )
        path = self.directory / WORKERS / f"{store.directory.name}.json"
        try:
            known = Plan.read(path) if path.exists() else None
        except ArtifactError:
            if path.exists() or not is_complete(self.directory):
                raise
            return
        if known == plan:
            return
        holders = sorted({holder.name for holder in self.claims.holders().values()})
        if known is not None and known.inputs != plan.inputs and holders:
            problem = f"{', '.join(holders)} build {self.stage} here under other settings or from other inputs"
            raise ArtifactError(self.directory, problem, "Give all workers the same settings, or another run_dir")
        try:
            write_json(path, asdict(plan))
        except FileNotFoundError:
            # Another worker has just completed the stage and removed the folder of plans: nothing is left to announce.
            if not is_complete(self.directory):
                raise


def _sum(sizes: Sequence[int], numbers: Iterable[int]) -> int:
    return sum(sizes[number] for number in numbers)
