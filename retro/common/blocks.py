"""Blocks: the unit of resume and of parallel work.

A stage cuts its work into numbered blocks, shared among workers by a `Coordinator`. Each finished block is one HDF5
file, written to a temporary name and renamed. A block counts as done when it was made from the same inputs, has the
rows it should have, and its checksum matches; that a file merely opens proves nothing: a file of an earlier run with
other settings opens too. Anything else is built again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retro.common.artifacts import command_of
from retro.common.errors import ArtifactError
from retro.common.files import atomic_path
from retro.common.hdf5 import new_file, open_file, read_text, write_columns, write_texts
from retro.common.json_files import parse_json, wrong_type

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

    def must_build(self, number: int) -> bool:
        """Read block `number` whole; one that is stale or damaged is named in the log, and removed."""
        problem, _ = self._load(number)
        if problem and problem != "is missing":
            log.warning("%s %s; it is built again", self.path(number), problem)
            self.path(number).unlink(missing_ok=True)
        return bool(problem)

    def problem(self, number: int) -> str:
        """What is wrong with block `number`, read whole; empty if nothing."""
        return self._load(number)[0]

    def is_written(self, number: int) -> bool:
        """Whether there is a block `number` made from these inputs: one small read, its bytes are not checked."""
        return _inputs_of(self.path(number)) == self.inputs[number]

    def present(self) -> set[int]:
        """Numbers of the blocks that have a file, whatever it holds."""
        try:
            paths = list(self.directory.iterdir())
        except FileNotFoundError:
            return set()
        return {int(path.stem) for path in paths if path.suffix == ".h5" and path.stem.isdecimal()}

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
            counts = json.dumps(block.counts, sort_keys=True)
            write_texts(file, {"inputs": self.inputs[number], "counts": counts, "checksum": block.checksum})

    def read(self, number: int) -> Block:
        """Read a finished block and check it.

        Raises:
            ArtifactError: It is missing, was made from other inputs, or its bytes have changed.
        """
        problem, block = self._load(number)
        if problem:
            raise ArtifactError(self.path(number), problem, f"Run `{command_of(self.stage)}` again; it is built again")
        return block

    def take(self, number: int) -> Block:
        """Read a finished block to join it to the others; one that turns out damaged is removed.

        Raises:
            ArtifactError: It is missing, was made from other inputs, or its bytes have changed; run again, it is built.
        """
        try:
            return self.read(number)
        except ArtifactError:
            self.path(number).unlink(missing_ok=True)
            raise

    def counts(self, number: int) -> dict[str, int]:
        """The counts of a finished block, without reading its rows; one that cannot be read is removed.

        Raises:
            ArtifactError: The block is missing or cannot be read; run again, it is built.
        """
        remedy = f"Run `{command_of(self.stage)}` again; it is built again"
        try:
            with open_file(self.path(number), remedy) as file:
                return _counts(read_text(file, "counts"))
        except ArtifactError:
            self.path(number).unlink(missing_ok=True)
            raise

    def remove(self) -> None:
        """Delete the blocks: what they held is in the stage's artifact now."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def _load(self, number: int) -> tuple[str, Block]:
        """What is wrong with block `number` ("" if nothing), and its content."""
        nothing = Block({})
        try:
            with open_file(self.path(number), "") as file:
                block = Block({name: file[name][...] for name in file}, _counts(read_text(file, "counts")))
                rows, inputs, checksum = file.attrs["rows"], read_text(file, "inputs"), read_text(file, "checksum")
                if not isinstance(rows, np.integer) or not all(array.ndim for array in block.arrays.values()):
                    raise ValueError("its rows are not rows")
        except ArtifactError as error:
            return error.problem, nothing
        if inputs != self.inputs[number]:
            return "was made from other inputs or settings", nothing
        if {len(array) for array in block.arrays.values()} != {int(rows)}:
            return f"has not the {rows} rows it was written with", nothing
        if self.expected_rows and rows != self.expected_rows[number]:
            return f"has {rows} rows, needed are {self.expected_rows[number]}", nothing
        return ("", block) if checksum == block.checksum else ("has changed bytes (checksum)", nothing)


def _inputs_of(path: Path) -> str:
    try:
        with open_file(path, "") as file:
            return read_text(file, "inputs")
    except ArtifactError:
        return ""


def _counts(text: str) -> dict[str, int]:
    counts: dict[str, int] = parse_json(text)
    if wrong_type(counts, dict[str, int]) is not None:
        raise ValueError("its counts are not counts")
    return counts


def ranges(total: int, size: int) -> list[range]:
    """Cut `total` units into consecutive ranges of `size`; the last may be shorter.

    Raises:
        ValueError: `size` is not positive.
    """
    if size < 1:
        raise ValueError(f"a range needs a positive size, got {size}")
    return [range(start, min(start + size, total)) for start in range(0, total, size)]
