"""A stage that works in blocks: what to make, where it goes once joined, and what an earlier call left.

Building, recomputing a share of it as a proof, and repairing a damaged block all use this one value.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retro.common.artifacts import (
    MANIFEST,
    REPORT,
    Compared,
    Manifest,
    command_of,
    is_complete,
    read_manifest,
    require_parent,
    require_same_config,
)
from retro.common.blocks import Arrays, Block, BlockStore
from retro.common.errors import ArtifactError
from retro.common.files import write_json
from retro.common.hdf5 import changed_file, map_column
from retro.common.leases import remove_leases

BLOCKS_FILE = "blocks.json"
"""Checksum of each block's rows in the finished artifact: says which block is damaged, should a file be. No part of
the artifact, which is the same whatever the size of its blocks."""
Advance = Callable[[int], None]


class RowLocation(NamedTuple):
    """Where some rows of a block stand in the finished artifact."""

    file: str
    """Below the stage's directory."""
    dataset: str
    """In that file, with its groups."""
    array: str
    """In the block."""
    rows: range
    """Of the block's array."""
    first: int
    """Row of the dataset where they begin."""


@dataclass(frozen=True, kw_only=True)
class BlockWork:
    """All blocks of one stage."""

    directory: Path
    """The stage's."""
    store: BlockStore
    """Where the blocks go until they are joined."""
    sizes: tuple[int, ...]
    """Units of each block."""
    unit: str
    """What a unit is, in the plural."""
    make: Callable[[int, Advance], Block]
    """Makes block n; equal bytes each time. Tells its second argument of units done."""
    places: Callable[[int], Sequence[RowLocation]]
    """Where the rows of block n stand in the finished artifact."""
    names: Callable[[int], str] = str
    """What block n is, for people: its number and its range."""

    def stored(self, number: int) -> Arrays:
        """The rows of block `number` as the finished artifact holds them now.

        Raises:
            ArtifactError: A file of the artifact is missing or cannot be read.
        """
        found: dict[str, list[RowLocation]] = {}
        for place in self.places(number):
            found.setdefault(place.array, []).append(place)
        return {array: np.concatenate([self._rows(place) for place in parts]) for array, parts in found.items()}

    def checksum(self, number: int) -> str:
        """SHA-256 of the rows of block `number` as the finished artifact holds them now."""
        return Block(self.stored(number)).checksum

    def repair(self, number: int, block: Block, copies: dict[str, Path]) -> None:
        """Write the rows of a block over those in copies of the artifact's files.

        Args:
            number: Of the block.
            block: As `make` gave it.
            copies: For each file's name, the copy to write to.
        """
        for place in self.places(number):
            with changed_file(copies[place.file]) as file:
                rows = slice(place.first, place.first + len(place.rows))
                file[place.dataset][rows] = block.arrays[place.array][place.rows.start : place.rows.stop]

    def _rows(self, place: RowLocation) -> NDArray[Any]:
        column = map_column(
            self.directory / place.file, place.dataset, f"Run `{command_of(self.store.stage)}` with --redo"
        )
        return np.asarray(column[place.first : place.first + len(place.rows)])


def record_blocks(directory: Path, works: Sequence[BlockWork]) -> None:
    """Read what was joined back, compare it with its blocks, and write the checksum of each block's rows.

    Raises:
        ArtifactError: The artifact does not hold what a block holds: the disk or the memory of this machine fails.
    """
    recorded = {
        work.store.directory.name: [_joined(work, number) for number in range(len(work.store))] for work in works
    }
    write_json(directory / BLOCKS_FILE, recorded)


def _joined(work: BlockWork, number: int) -> str:
    taken, found = Block(work.store.take(number).arrays).checksum, work.checksum(number)
    if taken != found:
        problem = f"does not hold the rows of block {number} ({work.names(number)}) that were just written to it"
        raise ArtifactError(
            work.directory, problem, f"Check disk and memory, then run `{command_of(work.store.stage)}` again"
        )
    return found


log = logging.getLogger(__name__)


def completed(
    out: Path,
    stage: str,
    settings: Mapping[str, Any],
    parents: Mapping[str, Manifest],
    *,
    compared: Compared = dict,
) -> Manifest | None:
    """The manifest in `out` if the stage has finished there with these settings and parents, else None.

    Args:
        out: The stage's directory.
        stage: Its name.
        settings: What it was asked for.
        parents: What it reads.
        compared: Which of the settings matter for whether the work is the same; all, unless given.

    Raises:
        ArtifactError: It finished with other settings or from other parents.
    """
    if not is_complete(out):
        return None
    manifest = read_manifest(out, stage)
    for name, parent in parents.items():
        require_parent(out, manifest, name, parent)
    require_same_config(out, manifest, settings, compared=compared)
    log.info("%s: already complete in %s", stage, out)
    return manifest


def fingerprints(parents: Mapping[str, Manifest]) -> dict[str, str]:
    """The parents as a manifest records them."""
    return {name: parent.fingerprint for name, parent in parents.items()}


def remove_temporary_files(out: Path) -> None:
    """Delete what a kill left half-written at the top of `out`.

    Only for the one worker that joins the blocks, once all are done.
    """
    for path in sorted(out.glob(".*.tmp")):
        path.unlink(missing_ok=True)


def remove_unlisted_files(out: Path, manifest: Manifest) -> None:
    """Delete what the artifact in `out` does not own: a kill came before it was removed."""
    remove_leases(out)
    owned = set(manifest.files) | {MANIFEST, REPORT}
    for path in sorted(out.iterdir()):
        if path.is_file() and path.suffix in {".h5", ".tmp"} and path.name not in owned:
            path.unlink(missing_ok=True)
