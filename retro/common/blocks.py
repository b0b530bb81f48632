"""Blocks: the unit of resume and of parallel work.

A stage cuts its work into numbered blocks. Rank r of w takes blocks r, r + w, r + 2w …; each finished block is one
HDF5 file, written to a temporary name and renamed. A block counts as done when it was made from the same inputs, has
the rows it should have, and its checksum matches; that a file merely opens proves nothing, since a file of an
earlier run with other settings opens too. Anything else is built again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from retro.common.artifacts import atomic_path
from retro.common.errors import ArtifactError
from retro.common.hdf5 import UNREADABLE, new_file, open_file, write_columns

log = logging.getLogger(__name__)

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Block:
    """The content of one finished block."""

    arrays: Arrays
    """Datasets by name; all have the same number of rows."""
    counts: dict[str, int] = field(default_factory=dict)
    """What the maker counted on the way: dropped documents, retried queries …"""

    @property
    def rows(self) -> int:
        """Rows of every dataset.

        Raises:
            ValueError: The datasets do not have equally many rows.
        """
        lengths = {len(array) for array in self.arrays.values()}
        if len(lengths) != 1:
            raise ValueError(f"a block needs datasets of one length, got lengths {sorted(lengths)}")
        return lengths.pop()

    @property
    def checksum(self) -> str:
        """SHA-256 over names, types, shapes and bytes of the datasets, and the counts."""
        digest = hashlib.sha256(json.dumps(self.counts, sort_keys=True).encode())
        for name in sorted(self.arrays):
            array = np.ascontiguousarray(self.arrays[name])
            digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
            digest.update(array.reshape(-1).view(np.uint8).data)
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class BlockStore:
    """The blocks of one stage, in one directory."""

    directory: Path
    """Holds 000000.h5, 000001.h5 …, and nothing else."""
    inputs: tuple[str, ...]
    """For each block, the fingerprint of all it is made from: parents, settings, and its own range."""
    expected_rows: tuple[int, ...] = ()
    """For each block, the rows it must have; empty where only the maker can know."""
    stage: str
    """The stage's name, as the user types it."""

    def __len__(self) -> int:
        return len(self.inputs)

    def path(self, number: int) -> Path:
        """File of block `number`."""
        return self.directory / f"{number:06d}.h5"

    def pending(self, rank: int = 0, world: int = 1) -> list[int]:
        """Numbers of the blocks of `rank` that are still to be made; stale and damaged ones are named in the log."""
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} is outside a world of {world}")
        return [number for number in range(rank, len(self), world) if self._must_build(number)]

    def write(self, number: int, block: Block) -> None:
        """Store a finished block.

        Raises:
            ArtifactError: The disk is full; blocks that were complete stay.
            ValueError: The block has not the rows that were planned.
        """
        if self.expected_rows and block.rows != self.expected_rows[number]:
            raise ValueError(f"block {number} has {block.rows} rows, planned were {self.expected_rows[number]}")
        with atomic_path(self.path(number)) as temporary, new_file(temporary) as file:
            write_columns(file, block.arrays)
            file.attrs["rows"] = block.rows
            file.attrs["inputs"] = self.inputs[number]
            file.attrs["counts"] = json.dumps(block.counts, sort_keys=True)
            file.attrs["checksum"] = block.checksum

    def read(self, number: int) -> Block:
        """Read a finished block and check it.

        Raises:
            ArtifactError: It is missing, was made from other inputs, or its bytes have changed.
        """
        problem, block = self._load(number)
        if problem:
            raise ArtifactError(self.path(number), problem, f"Run `retro {self.stage}` again; it is built anew")
        return block

    def counts(self, number: int) -> dict[str, int]:
        """The counts of a finished block, without reading its rows.

        Raises:
            ArtifactError: The block is missing or cannot be read.
        """
        remedy = f"Run `retro {self.stage}` again; it is built anew"
        with open_file(self.path(number), remedy) as file:
            counts: dict[str, int] = json.loads(str(file.attrs["counts"]))
        return counts

    def require_all(self, world: int, wait_s: float = 0.0) -> None:
        """Check that every rank has finished its blocks.

        Args:
            world: Ranks that share the work.
            wait_s: How long to wait for other ranks, in seconds since the last block appeared.

        Raises:
            ArtifactError: Blocks are missing; they are named with the ranks that owe them.
        """
        missing = self._missing()
        last_change = time.monotonic()
        while missing and time.monotonic() - last_change < wait_s:
            time.sleep(min(1.0, wait_s))
            before, missing = missing, self._missing()
            if missing != before:
                last_change = time.monotonic()
        if missing:
            raise ArtifactError(self.directory, self._describe(missing, world), self._remedy(missing, world))

    def remove(self) -> None:
        """Delete the blocks: what they held is in the stage's artifact now."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def _must_build(self, number: int) -> bool:
        problem, _ = self._load(number)
        if problem and problem != "is missing":
            log.warning("%s %s; it is built again", self.path(number), problem)
        return bool(problem)

    def _load(self, number: int) -> tuple[str, Block]:
        """What is wrong with block `number` ("" if nothing), and its content."""
        nothing = Block({})
        try:
            with h5py.File(self.path(number), "r") as file:
                attributes = dict(file.attrs)
                block = Block({name: file[name][...] for name in file}, json.loads(str(attributes["counts"])))
            rows, inputs, checksum = (attributes[name] for name in ("rows", "inputs", "checksum"))
        except FileNotFoundError:
            return "is missing", nothing
        except UNREADABLE as error:
            return f"cannot be read ({' '.join(str(error).split())})", nothing
        if inputs != self.inputs[number]:
            return "was made from other inputs or settings", nothing
        if {len(array) for array in block.arrays.values()} != {int(rows)}:
            return f"has not the {rows} rows it was written with", nothing
        if self.expected_rows and rows != self.expected_rows[number]:
            return f"has {rows} rows, needed are {self.expected_rows[number]}", nothing
        return ("", block) if checksum == block.checksum else ("has changed bytes (checksum)", nothing)

    def _missing(self) -> list[int]:
        # Only the inputs are compared here, which is one small read per block; `read` checks the bytes.
        return [number for number in range(len(self)) if _inputs_of(self.path(number)) != self.inputs[number]]

    def _describe(self, missing: list[int], world: int) -> str:
        shown = ", ".join(str(number) for number in missing[:10]) + (", …" if len(missing) > 10 else "")
        ranks = sorted({number % world for number in missing})
        return (
            f"{len(missing)} of {len(self)} blocks are not done: {shown} (rank {', '.join(map(str, ranks))} of {world})"
        )

    def _remedy(self, missing: list[int], world: int) -> str:
        return f"Let those ranks finish, then run `retro {self.stage}` as rank 0 of {world} again: it merges them"


def _inputs_of(path: Path) -> str:
    try:
        with h5py.File(path, "r") as file:
            return str(file.attrs["inputs"])
    except UNREADABLE:
        return ""


def ranges(total: int, size: int) -> list[range]:
    """Cut `total` units into consecutive ranges of `size`; the last may be shorter.

    Raises:
        ValueError: `size` is not positive.
    """
    if size < 1:
        raise ValueError(f"a range needs a positive size, got {size}")
    return [range(start, min(start + size, total)) for start in range(0, total, size)]
