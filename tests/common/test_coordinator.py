from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from retro.common.artifacts import Manifest, write_manifest
from retro.common.blocks import Block, BlockStore
from retro.common.coordinator import Coordinator
from retro.common.errors import ArtifactError, ConfigError
from retro.common.launcher import ALONE, Worker, worker_of
from retro.common.leases import STALE_S, WORKERS, Holder, Leases, remove_leases, this_machine

SIZES = (2, 2, 2, 2, 1)


def store(directory: Path, inputs: tuple[str, ...] = tuple("abcde")) -> BlockStore:
    return BlockStore(directory=directory / "blocks", inputs=inputs, expected_rows=SIZES, stage="db")


def make(number: int, advance: Callable[[int], None]) -> Block:
    advance(SIZES[number])
    return Block({"x": np.full(SIZES[number], number)})


def build(directory: Path, worker: Worker = ALONE, maker: Callable[[int, Callable[[int], None]], Block] = make) -> int:
    return Coordinator(directory, worker, stage="db", poll_s=0.01).build(
        store(directory), maker, sizes=SIZES, unit="rows"
    )


def held_elsewhere(directory: Path, name: str, *, machine: str = "elsewhere/1/2", age_s: float = 0.0) -> Path:
    """A claim of a process of another machine, last touched `age_s` ago."""
    path = Leases(directory / WORKERS).path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine, "pid": 1, "started": 0.0, "token": "t"}))
    os.utime(path, (time.time() - age_s, time.time() - age_s))
    return path


def test_a_worker_begins_with_its_own_share_and_goes_on_with_the_next_ones() -> None:
    assert Worker(1, 3).order(7) == [1, 4, 2, 5, 0, 3, 6]
    assert ALONE.order(3) == [0, 1, 2]


def test_more_workers_than_blocks_find_all_of_them() -> None:
    assert Worker(4, 9).order(2) == [0, 1]


def test_a_worker_outside_its_world_is_a_mistake_of_the_program() -> None:
    with pytest.raises(ValueError, match="rank 2 is outside a world of 2"):
        Worker(2, 2)


@pytest.mark.parametrize(
    ("environment", "worker"),
    [
        ({}, ALONE),
        ({"RANK": "3", "WORLD_SIZE": "8"}, Worker(3, 8)),
        (
            {"SLURM_ARRAY_TASK_ID": "11", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "10"},
            Worker(1, 4),
        ),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, Worker(1, 2)),
        ({"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "3"}, Worker(2, 3)),
        ({"RETRO_WORKER": "2/5", "RANK": "0", "WORLD_SIZE": "1"}, Worker(2, 5)),
    ],
)
def test_launchers_say_which_worker_this_is(environment: dict[str, str], worker: Worker) -> None:
    assert worker_of(environment) == worker


@pytest.mark.parametrize(("rank", "world"), [("\u00b2", "1"), ("0", "abc"), ("0", "0"), ("-1", "2")])
def test_a_launcher_s_variable_that_is_no_number_is_named(rank: str, world: str) -> None:
    with pytest.raises(ConfigError, match=r"(RANK|WORLD_SIZE) = .*as a launcher sets it"):
        worker_of({"RANK": rank, "WORLD_SIZE": world})


@pytest.mark.parametrize("text", ["3", "4/4", "a/b", ""])
def test_a_variable_that_is_no_worker_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"RETRO_WORKER = .*needs the form rank/world"):
        worker_of({"RETRO_WORKER": text})


def test_one_worker_builds_all_blocks_and_the_next_finds_them(tmp_path: Path) -> None:
    assert build(tmp_path) == 9
    assert build(tmp_path) == 0
    assert [int(store(tmp_path).read(number).arrays["x"][0]) for number in range(5)] == [0, 1, 2, 3, 4]


def test_workers_at_once_build_each_block_once(tmp_path: Path) -> None:
    built: list[int] = []

    def slowly(number: int, advance: Callable[[int], None]) -> Block:
        time.sleep(0.05)
        built.append(number)
        return make(number, advance)

    workers = [threading.Thread(target=build, args=(tmp_path, Worker(rank, 3), slowly)) for rank in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(built) == [0, 1, 2, 3, 4]


def test_a_block_held_by_a_living_worker_is_waited_for(tmp_path: Path) -> None:
    claim = held_elsewhere(tmp_path, "blocks.000002")

    def finish_it() -> None:
        store(tmp_path).write(2, make(2, lambda _: None))
        claim.unlink()

    late = threading.Timer(0.3, finish_it)
    late.start()
    assert build(tmp_path) == 7
    late.join()


def test_a_block_held_by_a_dead_worker_is_built(tmp_path: Path) -> None:
    held_elsewhere(tmp_path, "blocks.000002", age_s=2 * STALE_S)
    # On the same machine the process is looked for: none has begun at second 0.
    held_elsewhere(tmp_path, "blocks.000003", machine=this_machine())
    assert build(tmp_path) == 9


def test_a_killed_process_loses_its_claim_at_once(tmp_path: Path) -> None:
    code = """
import sys, time
from pathlib import Path
from retro.common.leases import Leases
with Leases(Path(sys.argv[1])).claim("x") as mine:
    print(mine, flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    claims = Leases(tmp_path)
    with claims.claim("x") as mine:
        assert not mine
    process.kill()
    process.communicate()
    with claims.claim("x") as mine:
        assert mine
        assert list(claims.holders()) == ["x"]
    assert claims.holders() == {}


def test_a_claim_cut_short_by_a_kill_counts_until_it_is_old(tmp_path: Path) -> None:
    claims = Leases(tmp_path)
    claims.path("x").write_text("{")
    assert claims.holder("x") == Holder("?", 0, 0.0, "")
    os.utime(claims.path("x"), (1.0, 1.0))
    assert claims.holder("x") is None


def test_a_damaged_block_of_the_own_share_is_built_again(tmp_path: Path) -> None:
    build(tmp_path)
    path = store(tmp_path).path(1)
    path.write_bytes(path.read_bytes()[:-1])
    assert build(tmp_path) == 2


def test_a_complete_stage_asks_for_no_blocks(tmp_path: Path) -> None:
    write_manifest(tmp_path, Manifest(stage="db", config={}, parents={}))
    assert build(tmp_path) == 0


def test_a_worker_that_joins_at_the_moment_the_stage_is_completed_has_nothing_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path)

    def completed_meanwhile(path: Path, data: object) -> None:
        write_manifest(tmp_path, Manifest(stage="db", config={}, parents={}))
        remove_leases(tmp_path)
        raise FileNotFoundError(path)

    remove_leases(tmp_path)
    monkeypatch.setattr("retro.common.coordinator.write_json", completed_meanwhile)
    assert build(tmp_path, Worker(1, 2)) == 0


def test_a_plan_that_cannot_be_written_is_not_passed_over_while_the_stage_is_unfinished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(path: Path, data: object) -> None:
        raise FileNotFoundError(path)

    monkeypatch.setattr("retro.common.coordinator.write_json", gone)
    with pytest.raises(FileNotFoundError):
        build(tmp_path)


def test_a_worker_with_other_settings_is_refused_while_another_builds(tmp_path: Path) -> None:
    build(tmp_path)
    claim = held_elsewhere(tmp_path, "blocks.000001")
    other = store(tmp_path, inputs=tuple("vwxyz"))
    coordinator = Coordinator(tmp_path, stage="db")
    with pytest.raises(ArtifactError, match="elsewhere:1 build db here under other settings"):
        coordinator.build(other, make, sizes=SIZES, unit="rows")
    claim.unlink()
    assert coordinator.build(other, make, sizes=SIZES, unit="rows") == 9


def test_what_is_done_once_is_done_by_one_worker(tmp_path: Path) -> None:
    done: list[str] = []

    def work(name: str) -> None:
        def slowly() -> None:
            time.sleep(0.05)
            done.append(name)

        Coordinator(tmp_path, stage="db", poll_s=0.01).once("learn", lambda: bool(done), slowly)

    workers = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(done) == 1


def test_every_worker_gets_the_manifest_and_nothing_is_left_behind(tmp_path: Path) -> None:
    manifest = Manifest(stage="db", config={"m": 1}, parents={})
    build(tmp_path)
    for worker in (Worker(0, 2), Worker(1, 2)):
        coordinator = Coordinator(tmp_path, worker, stage="db")
        assert coordinator.finish(lambda: manifest) == manifest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blocks", "blocks.json", "manifest.json"]
    remove_leases(tmp_path)
