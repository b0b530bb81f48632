"""The processes that train together, as srun or mpirun started them, told to torch in torchrun's words.

torchrun sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT. Slurm and Open MPI say the same in words of
their own; without this, each of their processes would train the whole model alone, into one directory.
"""

from __future__ import annotations

import os
import re
from collections.abc import MutableMapping

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
