"""Trust nothing on disk: read every file of a run again, and make a share of its blocks once more."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from retro.common.artifacts import MANIFEST, Manifest, command_of, parse_manifest, require_file
from retro.common.block_stage import BlockWork
from retro.common.blocks import Block
from retro.common.checksum_cache import forget
from retro.common.coordinator import Plan
from retro.common.errors import ArtifactError, RetroError, TrainingError
from retro.common.leases import WORKERS
from retro.common.progress import Progress
from retro.db.versions import REMEDY, VERSIONS
from retro.run.config import RunConfig
from retro.run.parents import require_parents
from retro.run.pipeline import STAGES, stage
from retro.run.repair import RECOMPUTED, WORKS, damaged_blocks, name_blocks, repair
from retro.run.unlisted_files import (
    below,
    checkpoints_in,
    has_no_checksum,
    own_checksums,
    own_problem,
    result_problems,
    training_problems,
    unfinished,
)
from retro.training.result import INFO

log = logging.getLogger(__name__)


@dataclass
class VerifiedStage:
    """What was looked at, and what was found."""

    files: int = 0
    bytes: int = 0
    blocks: int = 0
    """Of stages that are not finished."""
    recomputed: int = 0
    """Blocks that were made once more."""
    repaired: int = 0
    problems: list[str] = field(default_factory=list)
    """One line each: the file or block, what is wrong, and the command that repairs it."""
    not_covered: list[Path] = field(default_factory=list)
    """Files of an older version that carry no checksum: damage to them would not show."""


class Verification:
    """One look at a run; `found` says what came of it."""

    def __init__(self, config: RunConfig, command: str, *, repair: bool = False) -> None:
        """Prepare.

        Args:
            config: The run.
            command: How the user names it on the command line, for the remedies.
            repair: Make damaged blocks again and put their rows back.
        """
        self.config, self.command, self.repair = config, command, repair
        self.found = VerifiedStage()
        self._listed: set[Path] = set()

    def read_all(self) -> None:
        """Read every file that a manifest or a checkpoint names, and every block of stages that are being built.

        Raises:
            ArtifactError: There is nothing to read.
        """
        run_dir = self.config.run_dir
        manifests, plans = below(run_dir, MANIFEST), below(run_dir, f"{WORKERS}/*.json")
        if not manifests and not plans:
            raise ArtifactError(run_dir, "holds no finished stage, and none that was started", "Give the right run_dir")
        for path in manifests:
            self._artifact(path)
        for path in plans:
            self._blocks(path)
        for directory in checkpoints_in(run_dir):
            self._checkpoint(directory)
        self.found.problems += result_problems(run_dir)
        known = {problem.partition(": ")[0] for problem in self.found.problems}
        self.found.problems += [line for line in unfinished(self.config) if line.partition(": ")[0] not in known]
        self._own_checksums()
        # A damaged result is named by each that reads it.
        self.found.problems = list(dict.fromkeys(self.found.problems))

    def recompute(self, share: float, seed: int) -> None:
        """Make a random share of the blocks of each finished stage once more, at least one, and compare bit for bit.

        Args:
            share: 0 to 1.
            seed: Draws them.
        """
        for name, open_work in RECOMPUTED.items():
            if not (stage(name).path(self.config) / MANIFEST).exists():
                continue
            try:
                work = open_work(self.config)
                self._recompute(work, share, seed)
            except RetroError as error:
                self.found.problems.append(str(error))

    def _artifact(self, path: Path) -> None:
        place = next((one.name for one in STAGES if one.path(self.config) == path.parent), None)
        try:
            manifest = parse_manifest(path, "Run its stage with --redo", place)
        except ArtifactError as error:
            self.found.problems.append(str(error))
            return
        if place is not None:
            self._parents(path.parent, manifest)
        self.found.problems += training_problems(path.parent, manifest)
        self._listed |= {path.parent / name for name in manifest.files}
        for directory in sorted({(path.parent / name).parent for name in manifest.files}):
            try:
                forget(directory)
            except ArtifactError as error:
                self.found.problems.append(str(error))
        for name, known in manifest.files.items():
            self.found.files += 1
            try:
                require_file(path.parent, manifest, name, "")
                self.found.bytes += int(known["bytes"])
            except ArtifactError as error:
                self._damaged(path.parent, manifest, name, error.problem)

    def _parents(self, directory: Path, manifest: Manifest) -> None:
        try:
            require_parents(directory, manifest, self.config)
        except RetroError as error:
            self.found.problems.append(str(error))

    def _damaged(self, directory: Path, manifest: Manifest, name: str, problem: str) -> None:
        """Say which blocks of a file are damaged, or repair them."""
        redo = f"Run `{command_of(manifest.stage, self.command)} --redo`"
        if self.config.run_dir / VERSIONS in directory.parents:
            # No stage makes it again: what was added came from files that the run does not keep.
            redo = REMEDY
        try:
            work = self._work(directory, manifest)
        except RetroError as error:
            first = "Fix first what it is made from, then run this again to know which block it is"
            self.found.problems.append(f"{directory / name}: {problem}. {first} ({error})")
            return
        # A file of another length is another file: there are no rows to put back into it.
        path, length = directory / name, manifest.files[name]["bytes"]
        same = path.exists() and path.stat().st_size == length
        damaged = damaged_blocks(work, name) if work is not None and same else []
        if work is None or not damaged:
            self.found.problems.append(f"{directory / name}: {problem}. {redo}")
        elif self.repair and repair(work, damaged, name, str(manifest.files[name]["sha256"])):
            self.found.repaired += len(damaged)
            log.info("%s: made %s again; it matches its manifest", directory / name, name_blocks(work, damaged))
        else:
            remedy = redo if self.repair else f"Run `retro verify {self.command} --repair`"
            line = f"{directory / name}: {name_blocks(work, damaged)} has changed bytes. {remedy}"
            self.found.problems.append(line)

    def _work(self, directory: Path, manifest: Manifest) -> BlockWork | None:
        """The blocks of an artifact of this run; None where it has none.

        Raises:
            RetroError: What it is made from is damaged too.
        """
        open_work = WORKS.get(manifest.stage)
        if open_work is None or directory != stage(manifest.stage).path(self.config):
            return None
        return open_work(self.config)

    def _blocks(self, path: Path) -> None:
        try:
            plan = Plan.read(path)
        except ArtifactError as error:
            self.found.problems.append(str(error))
            return
        store = plan.store(path.parent.parent)
        for number in sorted(store.present()):
            self.found.blocks += 1
            problem = store.problem(number) if number < len(store) else "is not among the planned blocks"
            if problem:
                remedy = f"Run `{command_of(plan.stage, self.command)}`: it is built again"
                self.found.problems.append(f"{store.path(number)}: {problem}. {remedy}")

    def _own_checksums(self) -> None:
        for path in own_checksums(self.config.run_dir, self._listed):
            self.found.files += 1
            if problem := own_problem(path):
                self.found.problems.append(problem)
            elif has_no_checksum(path):
                self.found.not_covered.append(path)

    def _checkpoint(self, directory: Path) -> None:
        from retro.training import checkpoint

        self.found.files += 1
        self._listed |= {path for path in directory.iterdir() if path.name != INFO}
        try:
            checkpoint.verify(directory)
        except (ArtifactError, TrainingError) as error:
            self.found.problems.append(str(error))

    def _recompute(self, work: BlockWork, share: float, seed: int) -> None:
        total = len(work.store)
        # A corpus of Megatron files has none.
        size = min(total, max(1, round(share * total)))
        drawn = np.random.default_rng(seed).choice(total, size=size, replace=False) if total else np.zeros(0, np.int64)
        units = sum(work.sizes[number] for number in drawn)
        name = work.store.stage
        with Progress(units, what=f"verify: {name} once more", unit=work.unit) as bar:
            for number in sorted(drawn.tolist()):
                block = work.make(number, bar.advance)
                self.found.recomputed += 1
                if Block(block.arrays).checksum != work.checksum(number):
                    line = f"{work.directory}: {name_blocks(work, [number])} comes out otherwise when it is made again"
                    self.found.problems.append(f"{line}. Run `retro {name} {self.command} --redo`")
