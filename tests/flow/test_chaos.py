"""Stages 1 to 4 under everything that can go wrong at once end in the bytes of an undisturbed run.

Each trial starts workers on one run directory, and while they work kills some, fills the disk, flips bits of what is
not finished, cuts files short, and takes claims away so that two workers build one block. RETRO_CHAOS_TRIALS sets how
many trials there are.
"""

from __future__ import annotations

import errno
import logging
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from retro.common import files
from retro.common.artifacts import MANIFEST, is_complete, read_manifest
from retro.common.errors import ArtifactError, RetroError
from retro.common.launcher import VARIABLE
from retro.common.leases import WORKERS
from retro.run.config import RunConfig
from retro.run.pipeline import STAGES
from tests.tiny_road import small_config

TRIALS = int(os.environ.get("RETRO_CHAOS_TRIALS", "6"))
ROUNDS = 4
"""Disturbed starts in a trial, before the last one, which is left alone."""
FOUR = STAGES[:4]


def chaos_config(folder: Path, run: str) -> RunConfig:
    """Many small blocks, and an index that is trained."""
    return small_config(
        folder, "corpus.block_bytes=3000", "db.documents_per_block=7", "index.chunks_per_block=40",
        "index.faiss=IVF8,SQ8", "neighbors.queries_per_block=25", run=run,
    )  # fmt: skip


def start(config: RunConfig, rank: int, world: int, files_until_full: int | None = None) -> int:
    """Run all four stages in another process; gives its number. It ends with 0, or with 2 for an error of ours."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        logging.disable(logging.CRITICAL)
        os.environ[VARIABLE] = f"{rank}/{world}"
        if files_until_full is not None:
            fill_the_disk(files_until_full)
        for one in FOUR:
            one.run(config)
        code = 0
    except RetroError as error:
        print(error)
        code = 2
    finally:
        os._exit(code)


def fill_the_disk(after: int) -> None:
    """From some file on, nothing can be written; in this process only."""
    sync, left = files.fsync, [after]

    def fsync(path: Path) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(path)

    files.fsync = fsync


def unfinished(run_dir: Path) -> list[Path]:
    """Files of stages that are not complete; not those under temporary names, which are still being written."""
    directories = [run_dir / one.directory for one in FOUR if not is_complete(run_dir / one.directory)]
    found = [path for directory in directories for path in sorted(directory.rglob("*")) if path.is_file()]
    return [path for path in found if not path.name.endswith(".tmp") and ".workers" not in path.parts]


def flip_a_bit(chance: random.Random, run_dir: Path) -> None:
    for path in chance.sample(unfinished(run_dir), min(1, len(unfinished(run_dir)))):
        content = bytearray(path.read_bytes())
        if content:
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
            replace(path, bytes(content))


def cut_short(chance: random.Random, run_dir: Path) -> None:
    for path in chance.sample(unfinished(run_dir), min(1, len(unfinished(run_dir)))):
        replace(path, path.read_bytes()[: chance.randrange(path.stat().st_size + 1)])


def replace(path: Path, content: bytes) -> None:
    """Change a file; not under the feet of a worker that maps it, whom a shorter file would kill."""
    other = path.with_name(f"{path.name}.changed.tmp")
    other.write_bytes(content)
    other.rename(path)


def take_claims_away(chance: random.Random, run_dir: Path) -> None:
    for claim in run_dir.rglob("*.claim"):
        claim.unlink(missing_ok=True)


CALAMITIES: list[Callable[[random.Random, Path], None]] = [flip_a_bit, cut_short, take_claims_away]


def disturb(config: RunConfig, chance: random.Random) -> None:
    """Start some workers, do harm, kill what is left."""
    world = chance.randint(1, 3)
    full = [chance.randint(0, 40) if chance.random() < 0.3 else None for _ in range(world)]
    workers = [start(config, rank, world, full[rank]) for rank in range(world)]
    for _ in range(chance.randint(0, 3)):
        time.sleep(chance.uniform(0, 0.4))
        try:
            chance.choice(CALAMITIES)(chance, config.run_dir)
        except FileNotFoundError:  # what was to be harmed has just been replaced or removed
            continue
    time.sleep(chance.uniform(0, 0.8))
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)


def remove_damaged(config: RunConfig) -> None:
    """What `--redo` does: a finished stage that is damaged is removed, and the stages after it."""
    damaged = False
    for one in FOUR:
        directory = one.path(config)
        try:
            if is_complete(directory):
                read_manifest(directory, one.name)
        except ArtifactError:
            damaged = True
        if damaged:
            shutil.rmtree(directory, ignore_errors=True)


def artifacts_of(config: RunConfig) -> dict[str, bytes]:
    """Every file that belongs to the four artifacts, and the manifests; nothing may be beside them but reports."""
    found = {}
    for one in FOUR:
        directory = one.path(config)
        for name in [MANIFEST, *read_manifest(directory, one.name).files]:
            found[f"{one.name}/{name}"] = (directory / name).read_bytes()
        assert not (directory / "blocks").exists()
        assert not (directory / WORKERS).exists()
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """The folder of the text, and the bytes of a run that nothing befell."""
    folder = tmp_path_factory.mktemp("chaos")
    config = chaos_config(folder, "undisturbed")
    assert os.waitpid(start(config, 0, 1), 0)[1] == 0
    return folder, artifacts_of(config)


@pytest.mark.parametrize("seed", range(TRIALS))
def test_whatever_happens_the_bytes_are_those_of_an_undisturbed_run(
    undisturbed: tuple[Path, dict[str, bytes]], seed: int
) -> None:
    folder, whole = undisturbed
    config, chance = chaos_config(folder, f"run{seed}"), random.Random(seed)
    for _ in range(ROUNDS):
        disturb(config, chance)
    # What was harmed in the last moment may be found only when it is joined, and is then built by the next start; what
    # was harmed in the moment in which its stage was completed is made again, as the error asks for.
    for _ in range(4):
        remove_damaged(config)
        workers = [start(config, rank, 2) for rank in range(2)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) for worker in workers]
        if codes == [0, 0]:
            break
        assert set(codes) <= {0, 2}
    assert codes == [0, 0]
    found = artifacts_of(config)
    assert sorted(found) == sorted(whole)
    assert [name for name in whole if found[name] != whole[name]] == []
