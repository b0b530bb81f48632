"""Processes of srun and mpirun become those of torchrun, or are told what is missing."""

from __future__ import annotations

import pytest

from retro.common.errors import ConfigError
from retro.common.launcher import first_host, join_launcher

STEP = {
    "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1",
    "SLURM_JOB_ID": "41234567", "SLURM_STEP_ID": "2", "SLURM_STEP_NODELIST": "gpu[07-08]",
}  # fmt: skip
MPI = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}


def joined(environment: dict[str, str]) -> dict[str, str]:
    """What was added."""
    found = dict(environment)
    join_launcher(found)
    return {name: value for name, value in found.items() if environment.get(name) != value}


def test_tasks_of_srun_meet_at_the_first_host_of_their_step() -> None:
    port = 15000 + (41234567 + 2) % 15000
    assert joined(STEP) == {
        "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "gpu07", "MASTER_PORT": str(port),
    }  # fmt: skip


def test_an_address_and_a_port_that_are_set_are_kept() -> None:
    assert joined(STEP | {"MASTER_ADDR": "a", "MASTER_PORT": "5"}) == {
        "RANK": "3",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "1",
    }


@pytest.mark.parametrize(
    "environment",
    [
        {},
        STEP | {"RANK": "0", "WORLD_SIZE": "8"},  # torchrun, started by srun once a node
        STEP | {"WORLD_SIZE": "1"},
        {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"},
        STEP | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "1"},
        {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "4"},
        {"OMPI_COMM_WORLD_SIZE": "1"},
    ],
)
def test_one_process_and_those_of_torchrun_are_left_alone(environment: dict[str, str]) -> None:
    assert joined(environment) == {}


def test_one_process_for_many_tasks_is_told_how_to_start_them() -> None:
    # A batch script has number 0 and no step; a shell of salloc has no number.
    for script in ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, {"SLURM_NTASKS": "4"}):
        with pytest.raises(ConfigError, match=r"SLURM_NTASKS = 4: needs every task .*srun before .*SLURM_NTASKS=1"):
            joined(script)


def test_who_names_the_address_has_started_the_tasks_without_a_step() -> None:
    found = joined({"SLURM_NTASKS": "2", "SLURM_PROCID": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"})
    assert found == {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}


def test_processes_of_open_mpi_meet_on_their_machine_or_where_the_user_says() -> None:
    here = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    assert joined(MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "2"}) == here
    assert joined(MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "1", "MASTER_ADDR": "n1"})["MASTER_PORT"] == "29500"
    with pytest.raises(ConfigError, match=r"MASTER_ADDR = None: needs the host of process 0: mpirun -x MASTER_ADDR="):
        joined(MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "1"})
    with pytest.raises(ConfigError, match="needs OMPI_COMM_WORLD_RANK beside it"):
        joined({"OMPI_COMM_WORLD_SIZE": "2"})


def test_what_slurm_leaves_out_or_garbles_is_named() -> None:
    with pytest.raises(ConfigError, match="MASTER_ADDR = None: needs the host of task 0"):
        joined({name: value for name, value in STEP.items() if name != "SLURM_STEP_NODELIST"})
    with pytest.raises(ConfigError, match="SLURM_STEP_NUM_TASKS = 'x': needs a number"):
        joined(STEP | {"SLURM_STEP_NUM_TASKS": "x"})


@pytest.mark.parametrize(
    ("nodes", "host"),
    [("a", "a"), ("a,b", "a"), ("gpu[07-09,12]", "gpu07"), ("n[1,3],m2", "n1"), ("r[1-2]c[03-04]-ib", "r1c03-ib"),
     ("x-1.y", "x-1.y"), ("b,a[1-2]", "b")],
)  # fmt: skip
def test_the_first_host_of_a_list_of_slurm(nodes: str, host: str) -> None:
    assert first_host(nodes) == host
