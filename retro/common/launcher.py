"""Which process this is, as torchrun, srun, mpirun or an array job started it; and more workers on this machine.

torchrun sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT. Slurm and Open MPI say the same in words of
their own; without this, each of their processes would train the whole model alone, into one directory.
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from retro.common.errors import ConfigError

# Below the ports that Linux hands out by itself, from 32768 on.
_FIRST_PORT, _PORTS = 15000, 15000


def join_launcher(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set torchrun's variables from those of Slurm or Open MPI, where these started several processes.

    MASTER_ADDR and MASTER_PORT that are set already are kept.

    Raises:
        ConfigError: There should be several processes, and this one cannot know its number or where to meet them.
    """
    if "WORLD_SIZE" in environment or "RANK" in environment:
        return
    if _count(environment, "OMPI_COMM_WORLD_SIZE") > 1:
        _join_open_mpi(environment)
    elif _count(environment, "SLURM_STEP_NUM_TASKS") > 1 or _count(environment, "SLURM_NTASKS") > 1:
        _join_slurm(environment)


def _join_slurm(environment: MutableMapping[str, str]) -> None:
    tasks = environment.get("SLURM_STEP_NUM_TASKS", environment.get("SLURM_NTASKS", ""))
    # Slurm numbers the batch script itself too, as task 0; only srun names a step. Who sets MASTER_ADDR means it so.
    in_step = "SLURM_STEP_NUM_TASKS" in environment or "MASTER_ADDR" in environment
    if not (in_step and "SLURM_PROCID" in environment):
        need = (
            "needs every task to be started: put srun before this command, or start it by torchrun; "
            "with SLURM_NTASKS=1 before it, it trains in this process alone"
        )
        raise ConfigError("SLURM_NTASKS", int(tasks), need)
    if int(tasks) <= 1:
        return
    nodes = environment.get("SLURM_STEP_NODELIST", environment.get("SLURM_JOB_NODELIST", ""))
    if "MASTER_ADDR" not in environment and not nodes:
        raise ConfigError("MASTER_ADDR", None, "needs the host of task 0: Slurm names no nodes here")
    job = _count(environment, "SLURM_JOB_ID") + _count(environment, "SLURM_STEP_ID")
    _set(
        environment,
        rank=environment["SLURM_PROCID"],
        world=tasks,
        local=environment.get("SLURM_LOCALID", "0"),
        host=first_host(nodes),
        port=_FIRST_PORT + job % _PORTS,
    )


def _join_open_mpi(environment: MutableMapping[str, str]) -> None:
    world = environment["OMPI_COMM_WORLD_SIZE"]
    if "OMPI_COMM_WORLD_RANK" not in environment:
        raise ConfigError("OMPI_COMM_WORLD_SIZE", int(world), "needs OMPI_COMM_WORLD_RANK beside it, as mpirun sets it")
    if "MASTER_ADDR" not in environment and environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") != world:
        need = "needs the host of process 0: mpirun -x MASTER_ADDR=HOST …, for it does not say which that is"
        raise ConfigError("MASTER_ADDR", None, need)
    _set(
        environment,
        rank=environment["OMPI_COMM_WORLD_RANK"],
        world=world,
        local=environment.get("OMPI_COMM_WORLD_LOCAL_RANK", "0"),
        host="127.0.0.1",
        port=29500,
    )


def _set(environment: MutableMapping[str, str], *, rank: str, world: str, local: str, host: str, port: int) -> None:
    environment.update({"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": local})
    environment.setdefault("MASTER_ADDR", host)
    environment.setdefault("MASTER_PORT", str(port))


def _count(environment: MutableMapping[str, str], name: str) -> int:
    text = environment.get(name, "0")
    if not text.isdecimal():
        raise ConfigError(name, text, "needs a number, as the launcher sets it")
    return int(text)


def first_host(nodes: str) -> str:
    """The first host of a list as Slurm writes it: `a` of `a,b`, `gpu07` of `gpu[07-09,12]`."""
    first = re.match(r"[^,\[]*(\[([^\]]*)\][^,\[]*)*", nodes)
    name = first.group() if first else nodes
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", name)


log = logging.getLogger(__name__)

VARIABLE = "RETRO_WORKER"
"""Environment variable `rank/world`, for launchers that this module does not know."""
_LAUNCHERS = (
    ("RANK", "WORLD_SIZE", ""),  # torchrun
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN"),
    ("SLURM_PROCID", "SLURM_NTASKS", ""),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", ""),
)


@dataclass(frozen=True)
class Worker:
    """One of several workers. The numbers only decide who begins where; any set of workers ends with all work done."""

    rank: int = 0
    """Begins with blocks rank, rank + world …"""
    world: int = 1
    """Workers that are expected."""

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise ValueError(f"rank {self.rank} is outside a world of {self.world}")

    def order(self, total: int) -> list[int]:
        """0 to `total` - 1 in the order in which this worker looks for work: its own share, then the next ones'."""
        firsts = ((self.rank + turn) % self.world for turn in range(self.world))
        return [number for first in firsts for number in range(first, total, self.world)]


ALONE = Worker()


def worker_of(environment: Mapping[str, str] = os.environ) -> Worker:
    """This process's place among the workers, as its launcher says.

    Raises:
        ConfigError: The variable is not `rank/world`, or a launcher's is not a number.
    """
    text = environment.get(VARIABLE)
    if text is not None:
        rank, _, world = text.partition("/")
        if rank.isdecimal() and world.isdecimal() and int(rank) < int(world):
            return Worker(int(rank), int(world))
        raise ConfigError(VARIABLE, text, "needs the form rank/world, as 0/4 to 3/4 for four workers")
    for rank, world, first in _LAUNCHERS:
        if rank in environment and world in environment:
            number, workers = _number(environment, rank) - _number(environment, first), _number(environment, world)
            if workers < 1:
                raise ConfigError(world, environment[world], "needs at least 1, as a launcher sets it")
            # An array with gaps has ranks beyond its count; where one begins is all that is decided here.
            return Worker(number % workers, workers)
    return ALONE


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "0")
    if not text.isdecimal() or len(text) > 9:
        raise ConfigError(name, text, "needs a whole number, as a launcher sets it")
    return int(text)


SPAWNED = "RETRO_COMPANION"
"""Set for processes that `spawn_workers` starts: the process number of the one that did."""
_THREADS = ("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@contextmanager
def spawn_workers(count: int, arguments: Sequence[str]) -> Iterator[None]:
    """Have `count` - 1 further processes run a command while the block runs; this process is worker 0.

    Should one die, the others do its work, so its end is only logged. They are stopped when the block is left, by then
    the stage is complete or has failed. Each gets its share of the processor's threads, and a
    GPU of its own through LOCAL_RANK.

    Args:
        count: Workers on this machine, this one included.
        arguments: Of `retro`.
    """
    if count == 1:
        yield
        return
    threads = str(max((os.cpu_count() or count) // count, 1))
    started = {name: os.environ.get(name, threads) for name in _THREADS} | {SPAWNED: str(os.getpid())}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "retro", *arguments],
            env=os.environ | started | {VARIABLE: f"{rank}/{count}", "LOCAL_RANK": str(rank)},
            # Ctrl-C is this process's to handle, which then ends them.
            process_group=0,
        )
        for rank in range(1, count)
    ]
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = f"0/{count}"
    try:
        yield
        for process in processes:
            if process.poll():
                log.warning("a worker ended with exit code %d; the others did its work", process.returncode)
    finally:
        # The stage is complete, so what they still do (starting up, mostly) is of no use any more.
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


def end_with_parent() -> None:
    """End this process when the one that started it ends, even by a kill."""
    parent = os.environ.get(SPAWNED)
    if parent is not None:
        threading.Thread(target=_watch, args=(int(parent),), daemon=True, name="parent watch").start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
